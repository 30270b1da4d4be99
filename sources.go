package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
)

// sourceOpener is a power of a BuildpackRunner, or an ImageFetcher, whose works name sources that only it knows.
type sourceOpener interface {
	Open(ctx context.Context, s cell.Source) (io.ReadCloser, error)
}

// blobSource is the source of a blob of the catalog.
func blobSource(key string) cell.Source { return cell.Source("blob:" + key) }

// open gives the cell of this machine the bytes of a source.
func (p *Platform) open(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
	kind, rest, _ := strings.Cut(string(s), ":")
	switch kind {
	case "blob":
		return p.catalog.Open(ctx, rest)
	case "package":
		pkg, ok := packages.Get(p.db.View(), rest)
		if !ok {
			return nil, fmt.Errorf("package %s: %w", rest, fs.ErrNotExist)
		}
		return p.openPackage(ctx, pkg)
	case "http", "https":
		return fetch(ctx, string(s))
	}
	for _, part := range []any{p.cfg.Buildpacks, p.cfg.Images} {
		if o, ok := part.(sourceOpener); ok {
			r, err := o.Open(ctx, s)
			if !errors.Is(err, fs.ErrNotExist) {
				return r, err
			}
		}
	}
	return nil, fmt.Errorf("source %s is not known here: %w", s, fs.ErrNotExist)
}

func fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("fetch %s: the server answered %s", url, resp.Status)
	}
	return resp.Body, nil
}

// save stores an output of the cell of this machine under a key that was reserved.
func (p *Platform) save(ctx context.Context, key string, r io.Reader) (blob.Info, error) {
	return p.blobs.Put(ctx, key, r)
}

// saved tells the catalog what a cell stored.
func saved(s cell.Saved) blob.Info {
	return blob.Info{Key: s.Key, Size: s.Size, SHA256: s.SHA256}
}
