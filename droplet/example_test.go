package droplet_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/dewpoint-go/dewpoint/droplet"
)

func ExampleWrite() {
	dir, err := os.MkdirTemp("", "droplet-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "app"), 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app", "index.html"), []byte("hello"), 0o644); err != nil {
		log.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, droplet.StagingInfoName))
	if err != nil {
		log.Fatal(err)
	}
	err = droplet.WriteStagingInfo(f, droplet.StagingInfo{DetectedBuildpack: "static", StartCommand: "serve app"})
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
	if err != nil {
		log.Fatal(err)
	}

	var archive bytes.Buffer
	info, err := droplet.Write(context.Background(), &archive, dir, droplet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Files, "files")
	staged, err := droplet.ReadInfo(&archive)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(staged.StartCommand)
	// Output:
	// 2 files
	// serve app
}
