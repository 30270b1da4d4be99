package oci

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/gzip"

	"github.com/dewpoint-go/dewpoint/droplet"
	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// Droplet is what Import has written.
type Droplet struct {
	// SHA256 of it, in hex, and its Size.
	SHA256 string
	Size   int64
	// Identical tells that it is, byte for byte, the droplet that was exported. That holds for
	// all that droplet.Write makes with its default Level; of a droplet that another program
	// compressed, names, contents, modes, owners and times come back, and the bytes are new.
	Identical bool
	App       App
}

// Import writes the droplet of an image that Export made to w. The layer is checked against
// its digests while it is read; on an error w has received a useless part.
func (c *Client) Import(ctx context.Context, from string, w io.Writer) (Droplet, error) {
	d, err := c.importImage(ctx, from, w)
	if err != nil {
		return Droplet{}, fmt.Errorf("import %s: %w", from, err)
	}
	return d, nil
}

func (c *Client) importImage(ctx context.Context, from string, w io.Writer) (_ Droplet, err error) {
	img, err := c.open(ctx, from)
	if err != nil {
		return Droplet{}, err
	}
	a, err := parts(img)
	if err != nil {
		return Droplet{}, err
	}
	digest, err := a.droplet.Digest()
	if err != nil {
		return Droplet{}, err
	}
	layer, err := a.droplet.Compressed()
	if err != nil {
		return Droplet{}, err
	}
	defer func() { err = errors.Join(err, layer.Close()) }()
	packed, plain, made := sha256.New(), sha256.New(), sha256.New()
	in := bufio.NewReaderSize(io.TeeReader(&stream.Reader{Ctx: ctx, R: layer}, packed), 256<<10)
	z, err := gzip.NewReader(in)
	if err != nil {
		return Droplet{}, fmt.Errorf("layer %s: %w", digest, err)
	}
	most := cmp.Or(c.c.MaxDroplet, defaultMaxDroplet)
	if most < 0 {
		most = math.MaxInt64
	}
	bounded := &stream.Limit{R: z, Left: most, Err: fmt.Errorf("it inflates to more than %d bytes; Config.MaxDroplet allows more", most)}
	out := &stream.Counter{W: io.MultiWriter(made, w)}
	err = droplet.Compress(ctx, out, droplet.Options{}, func(w io.Writer) error {
		return rename(w, io.TeeReader(bounded, plain), outOfHome)
	})
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return Droplet{}, fmt.Errorf("layer %s: %w", digest, err)
	}
	if got := sum(packed); got != digest {
		return Droplet{}, fmt.Errorf("layer %s: its bytes have the digest %s", digest, got)
	}
	if got := sum(plain); got != a.diff {
		return Droplet{}, fmt.Errorf("layer %s: its content has the digest %s, not %s", digest, got, a.diff)
	}
	d := Droplet{SHA256: hex.EncodeToString(made.Sum(nil)), Size: out.N, App: a.label.App}
	d.Identical = d.SHA256 == a.label.Droplet
	return d, nil
}

const defaultMaxDroplet = 4 << 30
