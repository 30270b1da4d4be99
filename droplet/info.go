package droplet

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/klauspost/compress/gzip"
	"go.yaml.in/yaml/v3"
)

// StagingInfoName is where a droplet has its [StagingInfo].
const StagingInfoName = "staging_info.yml"

const maxStagingInfo = 1 << 20

// StagingInfo is what staging tells the launcher. The form is that of Cloud Foundry's
// buildpackapplifecycle.
type StagingInfo struct {
	DetectedBuildpack string `json:"detected_buildpack" yaml:"detected_buildpack"`
	StartCommand      string `json:"start_command" yaml:"start_command"`
	// Config is nil if there is none.
	Config *LaunchConfig `json:"config,omitempty" yaml:"config,omitempty"`
}

// LaunchConfig changes how an app is started.
type LaunchConfig struct {
	// EntrypointPrefix is a program that the start command is given to.
	EntrypointPrefix string `json:"entrypoint_prefix,omitempty" yaml:"entrypoint_prefix,omitempty"`
}

// EntrypointPrefix returns that of the Config, "" if there is none.
func (s StagingInfo) EntrypointPrefix() string {
	if s.Config == nil {
		return ""
	}
	return s.Config.EntrypointPrefix
}

// WriteStagingInfo writes s as JSON, which is YAML too, and a newline.
func WriteStagingInfo(w io.Writer, s StagingInfo) error {
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return fmt.Errorf("write staging info: %w", err)
	}
	return nil
}

// ReadStagingInfo reads a staging info of at most 1 MiB, JSON or YAML. Fields that are not
// known are passed over; an empty file is the zero value.
func ReadStagingInfo(r io.Reader) (StagingInfo, error) {
	var s StagingInfo
	data, err := io.ReadAll(io.LimitReader(r, maxStagingInfo+1))
	if err != nil {
		return s, fmt.Errorf("read staging info: %w", err)
	}
	if len(data) > maxStagingInfo {
		return s, fmt.Errorf("read staging info: it is larger than %d bytes", maxStagingInfo)
	}
	if json.Unmarshal(data, &s) == nil {
		return s, nil
	}
	s = StagingInfo{}
	if err := yaml.Unmarshal(data, &s); err != nil {
		return StagingInfo{}, fmt.Errorf("read staging info: %w", err)
	}
	return s, nil
}

// ReadInfo looks for the staging info in a droplet, a tar or gzipped tar, and reads no
// further than that: little of what [Write] made, all of what has it at its end. Without
// one the error is fs.ErrNotExist.
func ReadInfo(droplet io.Reader) (StagingInfo, error) {
	br := bufio.NewReaderSize(droplet, 64<<10)
	var r io.Reader = br
	head, err := br.Peek(2)
	if err != nil && err != io.EOF {
		return StagingInfo{}, fmt.Errorf("read droplet: %w", err)
	}
	if bytes.Equal(head, []byte{0x1f, 0x8b}) {
		zr, err := gzip.NewReader(br)
		if err != nil {
			return StagingInfo{}, fmt.Errorf("read droplet: %w", err)
		}
		defer zr.Close()
		r = zr
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return StagingInfo{}, fmt.Errorf("read droplet: no %s in it: %w", StagingInfoName, fs.ErrNotExist)
		}
		if err != nil {
			return StagingInfo{}, fmt.Errorf("read droplet: %w", err)
		}
		if h.Typeflag == tar.TypeReg && path.Clean(h.Name) == StagingInfoName {
			return ReadStagingInfo(tr)
		}
	}
}
