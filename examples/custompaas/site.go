package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// packSite makes a droplet: the app's files below app/, as a tar.gz.
func packSite(_ context.Context, p cell.MemoryProcess) int {
	page, err := p.ReadFile("/tmp/app/index.html")
	if err != nil {
		fmt.Fprintln(p.Stderr, "a site needs an index.html:", err)
		return 1
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Name: "./app/index.html", Mode: 0o644, Size: int64(len(page))})
	if err == nil {
		_, err = w.Write(page)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = p.WriteFile("/tmp/droplet", b.Bytes(), 0o644)
	}
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	return 0
}

// serveSite serves the droplet's page on the port that the platform gives.
func serveSite(ctx context.Context, p cell.MemoryProcess) int {
	page, err := fs.ReadFile(p.FS(), "home/vcap/app/index.html")
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	port, err := strconv.Atoi(p.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(p.Stderr, "PORT:", err)
		return 1
	}
	l, err := p.Listen(port)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(page); err != nil {
			return // the client has gone
		}
	})}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); err != http.ErrServerClosed {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	return 0
}
