package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dewpoint-go/dewpoint/resourcematch"
	"github.com/dewpoint-go/dewpoint/state"
)

// uploadLease is how long what a match found stays, at least: Cloud Foundry gives an upload
// 15 minutes.
const uploadLease = 20 * time.Minute

// upload takes a push from its files to a package: match, store what is new.
func (u *push) upload(ctx context.Context, files *resourcematch.Files) error {
	p := u.p
	lease, err := p.catalog.Lease(ctx, uploadLease)
	if err != nil {
		return err
	}
	defer p.release(ctx, lease)

	u.begin(StepMatch)
	known, err := p.matcher.Match(ctx, files.Fingerprints(), lease)
	if err != nil {
		return err
	}
	u.res.KnownFiles = len(known)
	for _, k := range known {
		u.res.KnownBytes += k.Size
	}
	u.done("%d of %d files, %s, are here", u.res.KnownFiles, u.res.Files, FormatBytes(u.res.KnownBytes))

	u.begin(StepUpload)
	u.line(u.p.apiLine(u.res.App.ID, "Uploading app package for app with guid "+u.res.App.ID))
	made, err := p.matcher.Assemble(ctx, resourcematch.Upload{Lease: lease, Known: known, Files: files})
	if err != nil {
		return fmt.Errorf("store the app's files: %w", err)
	}
	u.done("%s, %s", plural(u.res.Files-u.res.KnownFiles, "file"), FormatBytes(u.res.Bytes-u.res.KnownBytes))

	u.begin(StepPackage)
	pkg := Package{
		ID: p.newID(), App: u.res.App.ID, Key: made.Key, Keys: made.Keys, SHA256: made.SHA256,
		Files: made.Files, Size: made.Size, Created: p.now(),
	}
	err = p.db.Update(ctx, func(tx *state.Tx) error {
		a, ok := apps.Get(tx, pkg.App)
		if !ok {
			return errors.New("the app was deleted meanwhile")
		}
		for _, k := range pkg.Keys {
			if err := p.catalog.Use(tx, "package:"+pkg.ID, k); err != nil {
				return err
			}
		}
		a.Package, a.Updated = pkg.ID, p.now()
		u.res.App = a
		if err := packages.Put(tx, pkg); err != nil {
			return err
		}
		if err := apps.Put(tx, a); err != nil {
			return err
		}
		p.expire(tx, a)
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the package: %w", err)
	}
	u.res.Package = pkg
	u.done("package %.12s of %s, %s", pkg.SHA256, plural(pkg.Files, "file"), FormatBytes(pkg.Size))
	return nil
}

// scan reads the app's files; the caller closes them.
func (u *push) scan(ctx context.Context) (*resourcematch.Files, error) {
	u.begin(StepScan)
	o := resourcematch.ScanOptions{MaxPackage: u.p.cfg.MaxPackage}
	var files *resourcematch.Files
	var err error
	if u.req.Path != "" {
		files, err = resourcematch.ScanPath(ctx, u.req.Path, o)
	} else {
		files, err = resourcematch.Scan(ctx, u.req.Files, o)
	}
	if err != nil {
		return nil, err
	}
	for i := range files.Entries {
		if files.Entries[i].Regular() {
			u.res.Files++
		}
	}
	u.res.Bytes = files.Size()
	u.done("%s, %s", plural(u.res.Files, "file"), FormatBytes(u.res.Bytes))
	return files, nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// openPackage streams a package as a tar.
func (p *Platform) openPackage(ctx context.Context, pkg Package) (io.ReadCloser, error) {
	return p.matcher.Open(ctx, pkg.Key, resourcematch.Tar)
}
