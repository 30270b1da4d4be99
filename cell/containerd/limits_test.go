//go:build linux

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// shell runs a script to its end.
func shell(t *testing.T, c cell.Container, id, script string) cell.Exit {
	t.Helper()
	run, err := c.Run(t.Context(), cell.Process{ID: id, Path: "/bin/sh", Args: []string{"-c", script}}, cell.IO{})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := run.Wait(ctx)
	require.NoError(t, err)
	return e
}

func needLimit(t *testing.T, r *containerd.Runtime, limit string) {
	t.Helper()
	res, err := r.Capacity(t.Context())
	require.NoError(t, err)
	for _, l := range res.Enforced {
		if l == limit {
			return
		}
	}
	needs.Missing(t, "this machine does not limit "+limit)
}

// hungry takes memory without end.
const hungry = "tail /dev/zero"

func TestMemoryIsLimited(t *testing.T) {
	t.Parallel()
	r := openClean(t, t.TempDir())
	needLimit(t, r, "memory")
	c := create(t, r, cell.Spec{Memory: 64 << 20})
	e := shell(t, c, "a", "exec "+hungry)
	assert.Equal(t, 137, e.Code)
	assert.True(t, e.OutOfMemory)
	// A process that goes on without the one that was ended.
	assert.Equal(t, 0, shell(t, c, "b", hungry+"; exit 0").Code)
	// Its keeper is not the one to go, so that the container is of use still. One that is killed is not out of memory for that.
	run, err := c.Run(t.Context(), program("hang"), cell.IO{})
	require.NoError(t, err)
	require.NoError(t, run.Signal(t.Context(), "KILL"))
	e, err = run.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 137, e.Code)
	assert.False(t, e.OutOfMemory)
	assert.Equal(t, 3, shell(t, c, "d", "exit 3").Code)
}

func TestTheOwnerReadsWhichLimitItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openClean(t, dir)
	needLimit(t, r, "memory")
	a := celltest.Agent(t, cell.AgentConfig{Runtime: r})
	w := cell.Work{ID: "w", Spec: cell.Spec{Memory: 64 << 20}, Process: cell.Process{Path: "/bin/sh", Args: []string{"-c", "exec " + hungry}},
		Log: cell.LogTag{Source: "APP/PROC/WEB"}}
	require.NoError(t, a.Start(t.Context(), w))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for e, err := range a.Watch(ctx) {
		require.NoError(t, err)
		if e.Status.ID == "w" && e.Status.Phase == cell.PhaseDone {
			assert.Contains(t, e.Status.Failure, "APP/PROC/WEB: Exited with status 137 (out of memory)")
			assert.Contains(t, e.Status.Failure, "its limit of 64M")
			break
		}
	}
	require.NoError(t, a.Stop(t.Context(), "w"))
}

// What containers are given of the processor goes by their weight, as the kernel is told.
func TestProcessorTimeHasWeights(t *testing.T) {
	t.Parallel()
	r := openClean(t, t.TempDir())
	needLimit(t, r, "cpu")
	for _, weight := range []int{0, 1, 50, 100} {
		c := create(t, r, cell.Spec{CPU: weight})
		var out strings.Builder
		run, err := c.Run(t.Context(), cell.Process{Path: "/bin/sh", Args: []string{"-c", "cat /sys/fs/cgroup/cpu/cpu.shares || cat /sys/fs/cgroup/cpu.weight"}}, cell.IO{Stdout: &out})
		require.NoError(t, err)
		_, err = run.Wait(t.Context())
		require.NoError(t, err)
		if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.shares"); err == nil {
			want := max(2, 1024*weight/100)
			if weight == 0 {
				want = 1024
			}
			assert.Equal(t, fmt.Sprintln(want), out.String())
		}
	}
}

func TestUsageOfControlGroups(t *testing.T) {
	t.Parallel()
	r := openClean(t, t.TempDir())
	needLimit(t, r, "memory")
	c := create(t, r, cell.Spec{})
	_, err := c.Run(t.Context(), cell.Process{ID: "busy", Path: "/bin/sh", Args: []string{"-c", "while :; do :; done"}}, cell.IO{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		u, err := c.(cell.Meter).Usage(t.Context())
		return err == nil && u.CPU > 50*time.Millisecond && u.Memory > 100_000 && u.Processes == 1
	}, patience, 10*time.Millisecond)
}

// loops lists the files below a folder that are mounted as disks.
func loops(t require.TestingT, dir string) (all []string) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	require.NoError(t, err)
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), dir) {
			all = append(all, strings.TrimSpace(string(b)))
		}
	}
	return all
}

func TestDiskIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	need(t)
	t.Cleanup(func() { empty(t, dir) })
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog})
	require.NoError(t, err)
	needLimit(t, r, "disk")
	var droplet bytes.Buffer
	w := tar.NewWriter(&droplet)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "part", Typeflag: tar.TypeReg, Mode: 0o644, Size: 8 << 20}))
	_, err = w.Write(bytes.Repeat([]byte("x"), 8<<20))
	require.NoError(t, errors.Join(err, w.Close()))
	layer := cell.Layer{Digest: strings.Repeat("d", 64), Dir: "/home/vcap/app", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(droplet.Bytes())), nil
	}}
	con, err := r.Create(t.Context(), cell.Creation{ID: "bounded", Spec: cell.Spec{Disk: 32 << 20}, Layers: []cell.Layer{layer}})
	require.NoError(t, err)
	other, err := r.Create(t.Context(), cell.Creation{ID: "other", Spec: cell.Spec{Disk: 32 << 20}})
	require.NoError(t, err)
	assert.Len(t, loops(t, dir), 2)
	// Its droplet takes its part. What is written over it, beside it, and to /tmp is one.
	assert.Equal(t, 1, shell(t, con, "a", "head -c 25M /dev/zero > /home/vcap/app/f 2> /tmp/why").Code)
	assert.Equal(t, 0, shell(t, con, "b", "rm /home/vcap/app/f && head -c 16M /dev/zero > /home/vcap/app/part && head -c 6M /dev/zero > /tmp/f").Code)
	assert.Equal(t, 1, shell(t, con, "c", "head -c 3M /dev/zero > /home/vcap/g").Code)
	assert.Equal(t, 0, shell(t, other, "a", "head -c 30M /dev/zero > /home/vcap/f").Code, "another's is its own")
	// Small files are bounded by their room, not by their number.
	assert.Equal(t, 0, shell(t, other, "b", "rm f; for i in $(seq 3000); do echo x > $i; done").Code)
	u, err := con.(cell.Meter).Usage(t.Context())
	require.NoError(t, err)
	assert.LessOrEqual(t, u.Disk, int64(32<<20))
	assert.Greater(t, u.Disk, int64(20<<20))

	require.NoError(t, r.Close())
	r = open(t, dir)
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	for _, c := range all {
		if c.Info().ID == "bounded" {
			assert.Equal(t, 1, shell(t, c, "d", "head -c 3M /dev/zero > /home/vcap/g").Code)
			assert.Equal(t, 0, shell(t, c, "e", "rm /tmp/f && head -c 3M /dev/zero > /home/vcap/g").Code)
		}
		file, err := os.Open(filepath.Join(dir, "containers", c.Info().ID, "disk.img"))
		require.NoError(t, err)
		require.NoError(t, c.Destroy(t.Context()))
		info, err := file.Stat()
		require.NoError(t, errors.Join(err, file.Close()))
		assert.Less(t, info.Sys().(*syscall.Stat_t).Blocks, int64(1<<20/512), "whoever still holds the disk, as this does, takes no room")
	}
}

// startsLike tells whether the command of a process begins so.
func startsLike(proc, begin string) bool {
	b, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err == nil && strings.HasPrefix(string(b), begin)
}

// reboot leaves nothing running in the containers of a folder, and nothing mounted, as a start of the machine does.
func reboot(t *testing.T, dir string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range processes {
		mounts, _ := os.ReadFile(filepath.Join(p, "mountinfo")) // of one that has ended there are none
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && pid != os.Getpid() && bytes.Contains(mounts, []byte(dir)) && startsLike(p, "/run/dewpoint/keeper") {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			require.Eventually(t, func() bool { _, err := os.Stat(p); return err != nil }, patience, time.Millisecond)
		}
	}
	require.NoError(t, containerd.Unmount(filepath.Join(dir, "containers")))
	require.Eventually(t, func() bool { return len(loops(t, dir)) == 0 }, patience, time.Millisecond)
}

// What stands in a container's folder after the machine was started anew, or was put there by a program that bounded no disks.
func TestDisksThatAreFound(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	config := containerd.Config{Dir: dir, Socket: socket, Program: prog}
	r, err := containerd.New(t.Context(), config)
	require.NoError(t, err)
	needLimit(t, r, "disk")
	made := func(id string, disk int64) {
		spec := cell.Spec{Disk: disk}
		if disk == 0 {
			spec.NoFile = 4321
		}
		c, err := r.Create(t.Context(), cell.Creation{ID: id, Spec: spec})
		require.NoError(t, err)
		require.Equal(t, 0, shell(t, c, "a", "echo it > /home/vcap/f").Code)
	}
	made("whole", 32<<20)
	made("damaged", 32<<20)
	made("free", 0)
	made("cut", 32<<20)
	made("half", 32<<20)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "containers", "never"), 0o700))
	require.NoError(t, r.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "containers", "half", "disk", "ballast")))
	reboot(t, dir)
	image := filepath.Join(dir, "containers", "damaged", "disk.img")
	require.NoError(t, os.Truncate(image, 0))
	require.NoError(t, os.Truncate(image, 48<<20))
	meta := func(id string) string { return filepath.Join(dir, "containers", id, "meta.json") }
	b, err := os.ReadFile(meta("free"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(meta("free"), bytes.Replace(b, []byte(`"nofile":4321`), []byte(`"disk":33554432`), 1), 0o600))
	require.NoError(t, os.WriteFile(meta("cut"), b[:20], 0o600))
	require.NoError(t, os.WriteFile(meta("never"), b[:20], 0o600))

	r = open(t, dir)
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	var found []string
	for _, c := range all {
		found = append(found, c.Info().ID)
		f, err := c.StreamOut(t.Context(), "/home/vcap/f")
		if assert.NoError(t, err, c.Info().ID) {
			require.NoError(t, f.Close())
		}
		require.NoError(t, c.Destroy(t.Context()))
	}
	assert.Equal(t, []string{"free", "whole"}, found)

	blanks, err := filepath.Glob(filepath.Join(dir, "disks", "*"))
	require.NoError(t, err)
	require.Len(t, blanks, 2)
	for _, b := range blanks { // as by a power cut
		info, err := os.Stat(b)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(b, 0))
		require.NoError(t, os.Truncate(b, info.Size()))
	}
	for range 2 {
		c, err := r.Create(t.Context(), cell.Creation{ID: "again", Spec: cell.Spec{Disk: 32 << 20}})
		require.NoError(t, err)
		require.NoError(t, c.Destroy(t.Context()))
	}
}
