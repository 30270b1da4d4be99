// Package keep pins the dependencies while the packages that use them are written.
package keep

import (
	_ "github.com/cespare/xxhash/v2"
	_ "github.com/google/uuid"
	_ "github.com/hashicorp/go-memdb"
	_ "github.com/klauspost/compress/gzip"
	_ "go.yaml.in/yaml/v3"
	_ "gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/memblob"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/text/cases"
	_ "golang.org/x/text/unicode/norm"
	_ "modernc.org/sqlite"
)
