package celltest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// patience is how long anything may take before a test gives up. Nothing is expected to.
const patience = 30 * time.Second

// Runtime is a cell.Runtime under test.
type Runtime struct {
	cell.Runtime
	// Program returns the process that runs the suites' program with these arguments:
	// MemoryProgram, or a program whose main is Main.
	Program func(args ...string) cell.Process
}

// program returns the program with a folder to be in.
func (r Runtime) program(args ...string) cell.Process {
	p := r.Program(args...)
	if p.Dir == "" {
		p.Dir = "/home/vcap"
	}
	return p
}

// Run tests a Runtime. Open returns one without containers; it ends with t.
func Run(t *testing.T, open func(t *testing.T) Runtime) {
	cases := []struct {
		name string
		test func(t *testing.T, r Runtime)
	}{
		{"CreateAndInfo", testCreate},
		{"CreateTwice", testCreateTwice},
		{"CreateWithABadID", testBadID},
		{"CreateThatFailsLeavesNothing", testCreateFails},
		{"CreateEndsWithItsContext", testCreateCancelled},
		{"LayersAreSharedAndPrivate", testLayers},
		{"LayersAreFetchedTogether", testLayersTogether},
		{"LayersAreOpenedOncePerDigest", testLayersOnce},
		{"StreamInAndOut", testStreams},
		{"StreamInRefusesEntriesThatEscape", testEscapes},
		{"RunGivesArgumentsEnvironmentAndFolder", testRunGives},
		{"OutputIsWholeWhenWaitReturns", testOutput},
		{"AnyBytesOnBothOutputs", testBytes},
		{"OutputsByTheirNames", testNames},
		{"ExitStatusAndSignals", testExit},
		{"RunOfAProgramThatIsNotThere", testRunAbsent},
		{"AProcessOutlivesItsContext", testOutlives},
		{"AttachFindsProcessAndOutput", testAttach},
		{"ExecGivesInputAndOutput", testExec},
		{"ExecGivesATerminal", testTerminal},
		{"SessionsEnd", testSessionEnds},
		{"ManySessions", testSessions},
		{"DestroyEndsAll", testDestroy},
		{"UsageIsTold", testMeter},
		{"PortsAreTold", testPorts},
		{"Concurrent", testConcurrent},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			c.test(t, r)
			all, err := r.Containers(context.Background())
			must(t, err)
			for _, left := range all {
				must(t, left.Destroy(context.Background()))
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archive makes a tar of names and contents.
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		must(t, w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o755, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(w, files[i+1])
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func create(t *testing.T, r Runtime, c cell.Creation) cell.Container {
	t.Helper()
	con, err := r.Create(t.Context(), c)
	must(t, err)
	return con
}

// buffer is a writer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// said runs the program to its end and returns its status and what it printed.
func said(t *testing.T, r Runtime, c cell.Container, id string, env []string, args ...string) (cell.Exit, string, string) {
	t.Helper()
	p := r.program(args...)
	p.ID = id
	p.Env = append(p.Env, env...)
	var stdout, stderr buffer
	run, err := c.Run(t.Context(), p, cell.IO{Stdout: &stdout, Stderr: &stderr})
	must(t, err)
	return wait(t, run), stdout.String(), stderr.String()
}

func wait(t *testing.T, run cell.Running) cell.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	e, err := run.Wait(ctx)
	must(t, err)
	return e
}

func testCreate(t *testing.T, r Runtime) {
	note := bytes.Repeat([]byte("n"), 1000)
	con := create(t, r, cell.Creation{ID: "a.B-1_x", Spec: cell.Spec{Memory: 64 << 20, Ports: []int{8080, 9090}}, Note: note})
	all, err := r.Containers(t.Context())
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("Containers lists %d, want 1", len(all))
	}
	for _, i := range []cell.Info{con.Info(), all[0].Info()} {
		if i.ID != "a.B-1_x" || i.Spec.Memory != 64<<20 || !bytes.Equal(i.Note, note) || i.Created.IsZero() {
			t.Errorf("Info is %+v", i)
		}
		if len(i.Addresses) != 2 || i.Addresses[0].Host == i.Addresses[1].Host || i.Addresses[0].Port == 0 {
			t.Errorf("addresses are %v, want two that differ", i.Addresses)
		}
	}
}

func testCreateTwice(t *testing.T, r Runtime) {
	create(t, r, cell.Creation{ID: "one"})
	if _, err := r.Create(t.Context(), cell.Creation{ID: "one"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second Create gives %v, want fs.ErrExist", err)
	}
}

func testBadID(t *testing.T, r Runtime) {
	for _, id := range []string{"", ".", "..", ".hidden", "a/b", "a b", "ü", strings.Repeat("x", 129)} {
		if _, err := r.Create(t.Context(), cell.Creation{ID: id}); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
}

func testCreateFails(t *testing.T, r Runtime) {
	broken := errors.New("the store is broken")
	for name, open := range map[string]func(context.Context) (io.ReadCloser, error){
		"open": func(context.Context) (io.ReadCloser, error) { return nil, broken },
		"read": func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(archive(t, "a", strings.Repeat("x", 5000))[:2000]), failing{broken})), nil
		},
	} {
		_, err := r.Create(t.Context(), cell.Creation{ID: "x", Layers: []cell.Layer{{Digest: digest([]byte(name)), Dir: "/app", Open: open}}})
		if !errors.Is(err, broken) {
			t.Errorf("%s: Create gives %v, want the source's error", name, err)
		}
	}
	all, err := r.Containers(t.Context())
	must(t, err)
	if len(all) != 0 {
		t.Errorf("%d containers are left", len(all))
	}
	create(t, r, cell.Creation{ID: "x"})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func testCreateCancelled(t *testing.T, r Runtime) {
	ctx, cancel := context.WithCancel(t.Context())
	open := func(context.Context) (io.ReadCloser, error) {
		cancel()
		return io.NopCloser(bytes.NewReader(archive(t, "a", "b"))), nil
	}
	if _, err := r.Create(ctx, cell.Creation{ID: "x", Layers: []cell.Layer{{Digest: digest(nil), Dir: "/app", Open: open}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create gives %v, want context.Canceled", err)
	}
	all, err := r.Containers(t.Context())
	must(t, err)
	if len(all) != 0 {
		t.Errorf("%d containers are left", len(all))
	}
}

func testLayers(t *testing.T, r Runtime) {
	data := archive(t, "./app/run", "from the layer")
	var mu sync.Mutex
	opened := 0
	l := cell.Layer{Digest: digest(data), Dir: "/home/vcap", Open: func(context.Context) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		opened++
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
	one := create(t, r, cell.Creation{ID: "one", Layers: []cell.Layer{l}})
	two := create(t, r, cell.Creation{ID: "two", Layers: []cell.Layer{l}})
	if opened != 1 {
		t.Errorf("the layer was opened %d times, want once", opened)
	}
	must(t, one.StreamIn(t.Context(), "/home/vcap/app", bytes.NewReader(archive(t, "run", "changed"))))
	expectFile(t, one, "/home/vcap/app/run", "changed")
	expectFile(t, two, "/home/vcap/app/run", "from the layer")
}

// Each layer comes only when all are asked for.
func testLayersTogether(t *testing.T, r Runtime) {
	const n = 3
	var asked sync.WaitGroup
	asked.Add(n)
	var all []cell.Layer
	for i := range n {
		data := archive(t, "f", fmt.Sprint(i))
		all = append(all, cell.Layer{Digest: digest(data), Dir: fmt.Sprintf("/l/%d", i), Open: func(context.Context) (io.ReadCloser, error) {
			asked.Done()
			asked.Wait()
			return io.NopCloser(bytes.NewReader(data)), nil
		}})
	}
	c := create(t, r, cell.Creation{ID: "x", Layers: all})
	for i := range n {
		expectFile(t, c, fmt.Sprintf("/l/%d/f", i), fmt.Sprint(i))
	}
}

// Many containers that are made at the same time open a layer once.
func testLayersOnce(t *testing.T, r Runtime) {
	data := archive(t, "f", "x")
	var mu sync.Mutex
	opened := 0
	begun, let := make(chan struct{}), make(chan struct{})
	l := cell.Layer{Digest: digest(data), Dir: "/l", Open: func(context.Context) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if opened++; opened == 1 {
			close(begun)
			<-let
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
	var wg sync.WaitGroup
	for _, id := range ids(8) {
		wg.Go(func() {
			if _, err := r.Create(t.Context(), cell.Creation{ID: id, Layers: []cell.Layer{l}}); err != nil {
				t.Error(err)
			}
		})
	}
	<-begun
	close(let)
	wg.Wait()
	if opened != 1 {
		t.Errorf("the layer was opened %d times, want once", opened)
	}
}

func expectFile(t *testing.T, c cell.Container, name, want string) {
	t.Helper()
	rc, err := c.StreamOut(t.Context(), name)
	must(t, err)
	defer rc.Close()
	b, err := io.ReadAll(rc)
	must(t, err)
	if string(b) != want {
		t.Errorf("%s holds %q, want %q", name, b, want)
	}
}

func testStreams(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	must(t, c.StreamIn(t.Context(), "/tmp/a/b", bytes.NewReader(archive(t, "f", "1", "sub/g", "2"))))
	must(t, c.StreamIn(t.Context(), "/tmp/a", bytes.NewReader(archive(t, "b/f", "3"))))
	expectFile(t, c, "/tmp/a/b/f", "3")
	expectFile(t, c, "/tmp/a/b/sub/g", "2")
	for _, name := range []string{"/tmp/absent", "/absent/too"} {
		if _, err := c.StreamOut(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("StreamOut of %s gives %v, want fs.ErrNotExist", name, err)
		}
	}
	if rc, err := c.StreamOut(t.Context(), "/tmp/a"); err == nil {
		rc.Close()
		t.Error("StreamOut of a folder succeeds")
	}
}

func testEscapes(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	for _, name := range []string{"../evil", "a/../../evil"} {
		if err := c.StreamIn(t.Context(), "/tmp/in", bytes.NewReader(archive(t, name, "x"))); err == nil {
			t.Errorf("entry %q was unpacked", name)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "out", Linkname: "../../..", Typeflag: tar.TypeSymlink, Mode: 0o777}))
	must(t, w.WriteHeader(&tar.Header{Name: "out/evil", Size: 1, Mode: 0o644, Typeflag: tar.TypeReg}))
	_, err := w.Write([]byte("x"))
	must(t, err)
	must(t, w.Close())
	if err := c.StreamIn(t.Context(), "/tmp/in/deep", &b); err == nil {
		t.Error("an entry behind a link that leads out was unpacked")
	}
	if rc, err := c.StreamOut(t.Context(), "/evil"); err == nil {
		rc.Close()
		t.Error("an entry got out of its folder")
	}
}

// ids makes ids that differ.
func ids(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("c%d", i)
	}
	return all
}

func opener(data []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}
