package layers

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// Limits of one root filesystem, all of its layers together. 0: the default that stands there.
type Limits struct {
	Bytes   int64 // of files; 16 GiB
	Entries int   // 1,000,000
	Names   int64 // bytes of names held in memory while a layer is unpacked; 64 MiB
	Layers  int   // 256
	// Owner is who all shall belong to; 0: who runs this program. KeepOwners: those that the layers name, each higher by FirstUser, if that is
	// not 0; then of more than jail.ImageUsers the rest is the last but one, who is nobody by custom. All take root.
	Owner      int
	KeepOwners bool
	FirstUser  int
}

// root is who owns what no layer speaks of; 0: who runs this program.
func (l *Limits) root() int {
	if l.KeepOwners {
		return l.FirstUser
	}
	return l.Owner
}

// user is what a user or group of a layer is called on this machine.
func (l *Limits) user(n int) int {
	if l.FirstUser != 0 && (n < 0 || n >= jail.ImageUsers) {
		n = jail.ImageUsers - 2
	}
	return l.FirstUser + n
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 16 << 30
	}
	if l.Entries == 0 {
		l.Entries = 1_000_000
	}
	if l.Names == 0 {
		l.Names = 64 << 20
	}
	if l.Layers == 0 {
		l.Layers = 256
	}
	return l
}

// Layer is one layer of an image.
type Layer struct {
	// Digest is of the bytes that Open gives, DiffID of the tar in them: "sha256:…". Both are checked.
	Digest, DiffID string
	// Open gives a tar, plain or compressed by gzip or zstd.
	Open func(context.Context) (io.ReadCloser, error)
}

// Stats tells what was unpacked.
type Stats struct {
	Entries int
	Bytes   int64
	// Skipped is the number of devices and pipes, which only root could make.
	Skipped int
}

// LayerError says why a layer was refused. It is about the layer, not about disk or network.
type LayerError struct {
	Digest, Entry, Reason string
}

func (e *LayerError) Error() string {
	s := "layer " + e.Digest
	if e.Entry != "" {
		s += fmt.Sprintf(": entry %.200q", e.Entry)
	}
	return s + ": " + e.Reason
}

// applier puts layers into a root, the lowest first.
type applier struct {
	ctx   context.Context
	root  *os.Root
	limit Limits // what is left
	stats Stats
	buf   []byte

	digest string
	mine   map[string]bool // what this layer has made, and the folders on the way there
	empty  map[string]bool // folders in which nothing of lower layers is left
}

// Apply unpacks layers into root, the lowest first. On an error root holds a part of them.
//
// Whiteouts and opaque folders remove what lower layers made. Symbolic links are kept as they are; an
// entry behind one is put where that leads inside the root, and refused if it leads out or is absolute. Owners are kept
// if the Limits say so, set-id and sticky bits never; its owner may always read a file, and read, write and search a folder.
func Apply(ctx context.Context, root *os.Root, all []Layer, l Limits) (Stats, error) {
	a := &applier{ctx: ctx, root: root, limit: l.withDefaults(), buf: make([]byte, 128<<10)}
	if len(all) > a.limit.Layers {
		return a.stats, &LayerError{Digest: all[0].Digest, Reason: fmt.Sprintf("the image has %d layers; %d is the most", len(all), a.limit.Layers)}
	}
	names := a.limit.Names
	for _, layer := range all {
		a.digest, a.mine, a.empty, a.limit.Names = layer.Digest, map[string]bool{}, map[string]bool{}, names
		if err := a.layer(layer); err != nil {
			return a.stats, err
		}
	}
	return a.stats, nil
}

func (a *applier) refuse(entry, format string, args ...any) error {
	return &LayerError{Digest: a.digest, Entry: entry, Reason: fmt.Sprintf(format, args...)}
}

func (a *applier) layer(l Layer) (err error) {
	rc, err := l.Open(a.ctx)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer func() { _ = rc.Close() }() // it was only read
	packed, plain := sha256.New(), sha256.New()
	src := &stream.Reader{Ctx: a.ctx, R: rc}
	in := bufio.NewReaderSize(io.TeeReader(src, packed), 128<<10)
	var r io.Reader = in
	head, _ := in.Peek(4)
	switch {
	case string(head) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return a.damaged(src, err)
		}
		defer z.Close()
		r = z
	case len(head) >= 2 && string(head[:2]) == "\x1f\x8b":
		if r, err = gzip.NewReader(in); err != nil {
			return a.damaged(src, err)
		}
	}
	// Headers are no files, and not free.
	r = io.TeeReader(&stream.Limit{R: r, Left: a.limit.Bytes + 2048*int64(a.limit.Entries) + 16<<20, Err: errTooMuch}, plain)
	err = a.tar(tar.NewReader(r))
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, a.buf) // its checksum stands at its end
	}
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, in, a.buf)
	}
	if err != nil {
		return a.damaged(src, err)
	}
	if got := "sha256:" + hex.EncodeToString(packed.Sum(nil)); got != l.Digest {
		return a.refuse("", "its bytes have the digest %s", got)
	}
	if got := "sha256:" + hex.EncodeToString(plain.Sum(nil)); got != l.DiffID {
		return a.refuse("", "its content has the digest %s, and should have %s", got, l.DiffID)
	}
	return nil
}

// maxWindow is how much memory a layer in zstd may ask for: what the program zstd takes by itself (--long).
const maxWindow = 128 << 20

var errTooMuch = errors.New("it unpacks to more than its limit")

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.EROFS)
}

// damaged tells failures of the source and the disk from those of the layer.
func (a *applier) damaged(src *stream.Reader, err error) error {
	var refused *LayerError
	var disk *fs.PathError
	var link *os.LinkError
	switch {
	case src.Err != nil:
		return fmt.Errorf("layer %s: %w", a.digest, src.Err)
	case errors.As(err, &refused):
		return err
	case errors.As(err, &disk), errors.As(err, &link), errors.Is(err, a.ctx.Err()):
		return fmt.Errorf("layer %s: %w", a.digest, err)
	}
	return a.refuse("", "it is damaged: %v", err)
}

func (a *applier) tar(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if a.stats.Entries++; a.stats.Entries > a.limit.Entries {
			return a.refuse(h.Name, "the image has more than %d entries", a.limit.Entries)
		}
		if err := a.entry(h, r); err != nil {
			return err
		}
	}
}

const (
	maxName, maxDepth, maxPart = 4096, 256, 255

	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// clean is a name inside the root.
func (a *applier) clean(entry, name string) (string, error) {
	switch {
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return "", a.refuse(entry, "its name is empty or holds a NUL byte")
	case len(name) > maxName || strings.Count(name, "/") > maxDepth:
		return "", a.refuse(entry, "its name is too long, or too deep")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || len(part) > maxPart {
			return "", a.refuse(entry, `a part of its name is ".." or too long`)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil // some layers have absolute names: those of the image
}

func (a *applier) entry(h *tar.Header, body io.Reader) error {
	name, err := a.clean(h.Name, h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return a.refuse(h.Name, "it is in the place of the root and not a folder")
		}
		return nil
	}
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	switch {
	case base == opaque:
		return a.clear(h.Name, dir)
	case strings.HasPrefix(base, whiteout+whiteout):
		return nil // what aufs notes for itself
	case strings.HasPrefix(base, whiteout):
		return a.remove(h.Name, dir, base[len(whiteout):])
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		a.stats.Skipped++
		return nil
	default:
		return a.refuse(h.Name, "it is of the unknown type %q", h.Typeflag)
	}
	if err := a.own(h.Name, name); err != nil {
		return err
	}
	if err := a.parents(h.Name, dir); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return a.dir(h, name)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxName || strings.IndexByte(h.Linkname, 0) >= 0 {
			return a.refuse(h.Name, "it is a symbolic link with an impossible target")
		}
		if err := a.room(name); err != nil {
			return err
		}
		if err := a.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return a.give(h, name)
	case tar.TypeLink:
		return a.link(h, name)
	}
	return a.file(h, name, body)
}

// own notes that this layer has made a name, and all folders on the way.
func (a *applier) own(entry, name string) error {
	for ; name != "." && !a.mine[name]; name = path.Dir(name) {
		if err := a.hold(entry, name); err != nil {
			return err
		}
		a.mine[name] = true
	}
	return nil
}

// hold accounts for a name that stays in memory.
func (a *applier) hold(entry, name string) error {
	if a.limit.Names -= int64(len(name)) + 64; a.limit.Names < 0 {
		return a.refuse(entry, "the names of the layer take too much memory")
	}
	return nil
}

// parents makes the folders above an entry. A file there is one of a lower layer, or an attack.
func (a *applier) parents(entry, dir string) error {
	if dir == "." {
		return nil
	}
	var made []string
	for d := dir; a.limit.root() != 0 && d != "."; d = path.Dir(d) {
		if _, err := a.root.Lstat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, d)
	}
	err := a.root.MkdirAll(dir, 0o755)
	for _, d := range made {
		if err == nil {
			err = a.root.Lchown(d, a.limit.root(), a.limit.root())
		}
	}
	if err == nil {
		return nil
	}
	// A link that leads out, or something that is no folder: what the kernel says of it names the part.
	var disk *fs.PathError
	if errors.As(err, &disk) && !isFull(err) {
		return a.refuse(entry, "it lies behind %q, which is no folder of the image: %v", disk.Path, disk.Err)
	}
	return err
}

// room removes what is in the place of an entry.
func (a *applier) room(name string) error {
	_, err := a.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return a.root.RemoveAll(name)
}

func (a *applier) dir(h *tar.Header, name string) error {
	fi, err := a.root.Lstat(name)
	if err != nil || !fi.IsDir() {
		if err := a.room(name); err != nil {
			return err
		}
		if err := a.root.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	if err := a.give(h, name); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode)&fs.ModePerm | 0o700
	if h.Mode&0o1000 != 0 { // else who has given root up in a container may take away what root has in /tmp
		mode |= fs.ModeSticky
	}
	if a.limit.KeepOwners && h.Mode&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	return a.root.Chmod(name, mode)
}

func (a *applier) link(h *tar.Header, name string) error {
	target, err := a.clean(h.Name, h.Linkname)
	if err != nil {
		return err
	}
	if target == name {
		return a.refuse(h.Name, "it is a hard link to itself")
	}
	fi, err := a.root.Lstat(target)
	if err != nil || fi.IsDir() {
		return a.refuse(h.Name, "it is a hard link to %.200q, which is no file of the image", h.Linkname)
	}
	// With its folder a target could be removed: then there is nothing to link to.
	if strings.HasPrefix(target, name+"/") {
		return a.refuse(h.Name, "it is a hard link to what lies in its own place")
	}
	if err := a.room(name); err != nil {
		return err
	}
	return a.root.Link(target, name)
}

func (a *applier) file(h *tar.Header, name string, body io.Reader) (err error) {
	if a.limit.Bytes -= h.Size; h.Size < 0 || a.limit.Bytes < 0 {
		return a.refuse(h.Name, "with it the image unpacks to more than its limit")
	}
	if err := a.room(name); err != nil {
		return err
	}
	f, err := a.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{body}, a.buf)
	a.stats.Bytes += n
	if err != nil {
		return err
	}
	if n != h.Size {
		return a.refuse(h.Name, "it is cut short")
	}
	if err := a.give(h, name); err != nil {
		return err
	}
	if err := f.Chmod(fs.FileMode(h.Mode)&fs.ModePerm | 0o400); err != nil {
		return err
	}
	if s := h.ModTime.Unix(); s > 0 && s < 7258118400 { // year 2200; an odd time is no reason to refuse
		_ = a.root.Chtimes(name, h.ModTime, h.ModTime)
	}
	return nil
}

// give makes an entry somebody's.
func (a *applier) give(h *tar.Header, name string) error {
	switch {
	case a.limit.KeepOwners:
		return a.root.Lchown(name, a.limit.user(h.Uid), a.limit.user(h.Gid))
	case a.limit.Owner != 0:
		return a.root.Lchown(name, a.limit.Owner, a.limit.Owner)
	}
	return nil
}

// remove deletes what a lower layer has under a name. What this layer has made below it stays.
func (a *applier) remove(entry, dir, base string) error {
	if base == "" || base == "." || base == ".." {
		return a.refuse(entry, "it is a whiteout of %q", base)
	}
	name := path.Join(dir, base)
	if a.mine[name] {
		return a.clear(entry, name)
	}
	if err := a.inside(entry, dir); err != nil {
		return err
	}
	return a.root.RemoveAll(name)
}

// clear deletes what lower layers have in a folder.
func (a *applier) clear(entry, dir string) error {
	if err := a.inside(entry, dir); err != nil {
		return err
	}
	fi, err := a.root.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !fi.IsDir() {
		return err
	}
	if a.empty[dir] { // a layer that says it again and again must not cost us the time of all files each time
		return nil
	}
	if err := a.hold(entry, dir); err != nil {
		return err
	}
	a.empty[dir] = true
	names, err := a.list(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		name := path.Join(dir, n)
		if a.mine[name] {
			err = a.clear(entry, name)
		} else {
			err = a.root.RemoveAll(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inside refuses whiteouts that lie behind a link out of the root; that there is nothing is well.
func (a *applier) inside(entry, dir string) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	if _, err := a.root.Stat(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return a.refuse(entry, "it lies behind a link that leads out of the image: %v", err)
	}
	return nil
}

func (a *applier) list(dir string) ([]string, error) {
	d, err := a.root.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}
