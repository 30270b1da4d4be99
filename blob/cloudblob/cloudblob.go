package cloudblob

import (
	"context"
	"crypto/sha256"
	encodinghex "encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	gcblob "gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/internal/stream"
)

var (
	_ blob.Store     = (*Store)(nil)
	_ blob.Ranger    = (*Store)(nil)
	_ blob.URLSigner = (*Store)(nil)
)

// Store is a [blob.Store] in a bucket. Stat and List know no digest.
type Store struct {
	bucket *gcblob.Bucket
	// onePage: the driver lists files in the order of its walk, which is not that of names,
	// and loses some between pages.
	onePage bool
}

// New makes a Store of a bucket, which stays the caller's to close. Objects of others in the
// bucket are neither seen nor touched.
func New(bucket *gcblob.Bucket) *Store {
	var dir os.FileInfo // what only fileblob answers with
	return &Store{bucket: bucket, onePage: bucket.As(&dir)}
}

// failed says what was tried, and makes errors of the bucket ours.
func failed(ctx context.Context, op, key string, err error) error {
	switch {
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("cloudblob: %s %q: %w: %w", op, key, ctx.Err(), err)
	case gcerrors.Code(err) == gcerrors.NotFound:
		return fmt.Errorf("cloudblob: %s %q: %w: %w", op, key, fs.ErrNotExist, err)
	}
	return fmt.Errorf("cloudblob: %s %q: %w", op, key, err)
}

func check(ctx context.Context, op, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return failed(ctx, op, key, err)
	}
	return nil
}

// Put implements [blob.Store]; it is as durable as the bucket.
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (blob.Info, error) {
	if err := check(ctx, "put", key); err != nil {
		return blob.Info{}, err
	}
	// The end of its context is the one way to give an upload up.
	upload, giveUp := context.WithCancel(ctx)
	defer giveUp()
	w, err := s.bucket.NewWriter(upload, nameOf(key), &gcblob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return blob.Info{}, failed(ctx, "put", key, err)
	}
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(w, sum), &stream.Reader{Ctx: ctx, R: r})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		giveUp()
		_ = w.Close() // says only that the upload was given up
		return blob.Info{}, failed(ctx, "put", key, err)
	}
	if err := w.Close(); err != nil {
		return blob.Info{}, failed(ctx, "put", key, err)
	}
	return blob.Info{Key: key, Size: size, SHA256: encodinghex.EncodeToString(sum.Sum(nil))}, nil
}

// Get implements [blob.Store].
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := check(ctx, "get", key); err != nil {
		return nil, err
	}
	r, err := s.bucket.NewReader(ctx, nameOf(key), nil)
	if err != nil {
		return nil, failed(ctx, "get", key, err)
	}
	return r, nil
}

// GetRange implements [blob.Ranger].
func (s *Store) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("cloudblob: get %q: offset %d is negative", key, offset)
	}
	if err := check(ctx, "get", key); err != nil {
		return nil, err
	}
	var err error
	if length != 0 {
		var r io.ReadCloser
		if r, err = s.bucket.NewRangeReader(ctx, nameOf(key), offset, length, nil); err == nil {
			return r, nil
		}
		if gcerrors.Code(err) == gcerrors.NotFound || ctx.Err() != nil {
			return nil, failed(ctx, "get", key, err)
		}
	}
	// Some stores refuse a range behind the end with an error of their own.
	info, statErr := s.Stat(ctx, key)
	if statErr != nil {
		return nil, statErr
	}
	if length == 0 || offset >= info.Size {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return nil, failed(ctx, "get", key, err)
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, key string) (blob.Info, error) {
	if err := check(ctx, "stat", key); err != nil {
		return blob.Info{}, err
	}
	a, err := s.bucket.Attributes(ctx, nameOf(key))
	if err != nil {
		return blob.Info{}, failed(ctx, "stat", key, err)
	}
	return blob.Info{Key: key, Size: a.Size, Modified: a.ModTime}, nil
}

// Delete implements [blob.Store].
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, "delete", key); err != nil {
		return err
	}
	if err := s.bucket.Delete(ctx, nameOf(key)); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return failed(ctx, "delete", key, err)
	}
	return nil
}

// List implements [blob.Store], page by page. Only for the driver fileblob it holds all
// blobs with that prefix in memory.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		next := gcblob.FirstPageToken
		for len(next) > 0 {
			var page []*gcblob.ListObject
			err := ctx.Err()
			if err == nil {
				page, next, err = s.page(ctx, next, prefixOf(prefix))
			}
			if err != nil {
				yield(blob.Info{}, failed(ctx, "list", prefix, err))
				return
			}
			for _, o := range page {
				key, ours := keyOf(o.Key)
				if !ours || o.IsDir {
					continue
				}
				if err := ctx.Err(); err != nil {
					yield(blob.Info{}, failed(ctx, "list", prefix, err))
					return
				}
				if !yield(blob.Info{Key: key, Size: o.Size, Modified: o.ModTime}, nil) {
					return
				}
			}
		}
	}
}

func (s *Store) page(ctx context.Context, token []byte, prefix string) (page []*gcblob.ListObject, next []byte, err error) {
	opts := &gcblob.ListOptions{Prefix: prefix}
	if !s.onePage {
		return s.bucket.ListPage(ctx, token, 1000, opts)
	}
	// One page has to hold everything. The walk breaks off when a file goes away under it;
	// then it is begun anew.
	for size, broken := 1000, 0; ; {
		page, next, err = s.bucket.ListPage(ctx, token, size, opts)
		switch {
		case err == nil && len(next) > 0:
			size *= 8
			continue
		case gcerrors.Code(err) == gcerrors.NotFound && broken < 10:
			broken++
			continue
		}
		break
	}
	slices.SortFunc(page, func(a, b *gcblob.ListObject) int { return strings.Compare(a.Key, b.Key) })
	return page, nil, err
}

// SignedURL implements [blob.URLSigner]. Where the bucket's driver cannot (or was not given
// a key to sign with): errors.ErrUnsupported.
func (s *Store) SignedURL(ctx context.Context, key string, valid time.Duration) (string, error) {
	if err := check(ctx, "sign", key); err != nil {
		return "", err
	}
	url, err := s.bucket.SignedURL(ctx, nameOf(key), &gcblob.SignedURLOptions{Expiry: valid})
	if gcerrors.Code(err) == gcerrors.Unimplemented {
		return "", fmt.Errorf("cloudblob: sign %q: %w: %w", key, errors.ErrUnsupported, err)
	}
	if err != nil {
		return "", failed(ctx, "sign", key, err)
	}
	return url, nil
}
