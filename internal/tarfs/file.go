package tarfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// file writes the content of one file. The file is always a new one: what was there under
// its name, perhaps a link, is removed and never written to.
func (t *tree) file(at *os.Root, e Entry, base string, body io.Reader) error {
	if e.Size < 0 {
		return refuse(e.Name, "its size is negative")
	}
	if t.l.Bytes > 0 {
		if e.Size > t.left {
			return refuse(e.Name, "with it the archive unpacks to more than %d bytes", t.l.Bytes)
		}
		t.left -= e.Size
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := at.OpenFile(base, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := clearPlace(at, e, base); err != nil {
			return err
		}
		f, err = at.OpenFile(base, flags, 0o600)
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", e.Name, err)
	}
	err = t.fill(f, e, body)
	if err == nil && t.l.Owner != 0 {
		if err = f.Chown(t.l.Owner, t.l.Owner); err != nil {
			err = fmt.Errorf("unpack %s: %w", e.Name, err)
		}
	}
	if err == nil {
		if err = f.Chmod(e.Mode.Perm()); err != nil {
			err = fmt.Errorf("unpack %s: %w", e.Name, err)
		}
	}
	if err2 := f.Close(); err == nil && err2 != nil {
		err = fmt.Errorf("unpack %s: %w", e.Name, err2)
	}
	if err != nil {
		return err
	}
	setTime(at, base, e.ModTime)
	t.stats.Files++
	t.stats.Bytes += e.Size
	return nil
}

// fill copies exactly e.Size bytes and sees that no more follow.
func (t *tree) fill(w io.Writer, e Entry, body io.Reader) error {
	for done := int64(0); ; {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		n, err := body.Read(t.buf)
		if done += int64(n); done > e.Size {
			return refuse(e.Name, "it holds more than the %d bytes it claims", e.Size)
		}
		if n > 0 {
			if _, err := w.Write(t.buf[:n]); err != nil {
				return fmt.Errorf("unpack %s: %w", e.Name, err)
			}
		}
		switch {
		case err == io.EOF && done < e.Size:
			return &EntryError{Name: e.Name, Reason: "it is cut short", Err: io.ErrUnexpectedEOF}
		case err == io.EOF:
			return nil
		case err != nil:
			return named(e.Name, tarError(err))
		}
	}
}

// named adds the entry at which the damage of an archive showed.
func named(name string, err error) error {
	var e *EntryError
	if errors.As(err, &e) && e.Name == "" {
		e.Name = name
	}
	return err
}

// setTime is best effort: an odd time in an archive is no reason to refuse it.
func setTime(at *os.Root, name string, when time.Time) {
	const year2200 = 7258118400
	if s := when.Unix(); s > 0 && s < year2200 {
		_ = at.Chtimes(name, when, when)
	}
}
