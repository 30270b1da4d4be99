package celltest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// healthCases are the part of RunCell on health and on how instances end.
var healthCases = []struct {
	name string
	test func(t *testing.T, c Cell)
}{
	{"HealthByPort", testHealthPort},
	{"HealthOfEachPort", testHealthPorts},
	{"HealthByHTTP", testHealthHTTP},
	{"HealthIsAskedAsCloudFoundryDoes", testHealthAsked},
	{"HealthThatIsNone", testNoHealth},
	{"HealthOfABodyThatNeverEnds", testEndlessBody},
	{"NeverHealthy", testNeverHealthy},
	{"NoLongerHealthy", testUnhealthy},
	{"Readiness", testReadiness},
	{"HealthThatCannotBe", testBadHealth},
	{"InstanceThatExits", testCrash},
	{"HealthySteadily", testSteady},
	{"RequestsInFlightAreFinished", testFinish},
	{"SidecarsAreCodependent", testSidecars},
	{"SidecarHasItsOwnEnvironment", testSidecarEnvironment},
	{"SidecarThatCannotStart", testSidecarAbsent},
	{"SidecarThatFails", testSidecarFails},
	{"SidecarsCount", testSidecarsCount},
	{"Drain", testDrain},
	{"ListensElsewhere", testElsewhere},
	{"LimitOfFiles", testFiles},
	{"LimitOfMemory", testMemory},
	{"LimitOfDisk", testDisk},
	{"Usage", testUsage},
	{"AProcessBesideAWork", testBeside},
}

// ask sends a GET to an instance, on a connection of its own.
func ask(a cell.Address, path string) (*http.Response, error) {
	return (&http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return a.Dial(ctx) }}}).Get("http://" + a.Host + path)
}

// get asks an instance, and returns the body.
func get(t *testing.T, s cell.Status, path string) string {
	t.Helper()
	resp, err := ask(s.Addresses[0], path)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(b)
}

// neverHealthy runs an instance with ever longer start timeouts until its end is what it should be: it may
// need longer to come to the point where it is as unhealthy as it should be.
func neverHealthy(t *testing.T, c Cell, w cell.Work, ok func(s cell.Status) bool) cell.Status {
	t.Helper()
	id := w.ID
	for timeout := 200 * time.Millisecond; ; timeout *= 2 {
		h := *w.Health
		h.StartTimeout = timeout
		w.ID, w.Health = fmt.Sprint(id, "-", timeout.Milliseconds()), &h
		s := ended(t, c, w)
		begin := "Instance never healthy after " + timeout.String() + ": Timed out after " + timeout.String() + " ("
		if s.Reason != cell.ReasonHealth || !strings.HasPrefix(s.Failure, begin) || !strings.Contains(s.Failure, "attempts) waiting for startup check to succeed: ") {
			t.Fatalf("%s: status is %+v", id, s)
		}
		if ok(s) {
			return s
		}
		if timeout > patience/4 {
			t.Fatalf("%s: status is %+v", id, s)
		}
	}
}

func testHealthPort(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{}, "serve")
	must(t, c.Start(t.Context(), w))
	s := until(t, c, "w1", "running", phase(cell.PhaseRunning)).Status
	if len(s.Addresses) != 1 {
		t.Fatalf("addresses are %v", s.Addresses)
	}
	if got := get(t, s, "/"); got != "hello\n" || s.NotReady {
		t.Errorf("the app answers %q; its status is %+v", got, s)
	}
	must(t, c.Stop(t.Context(), "w1"))
}

// An app that listens on one of its two ports is not healthy.
func testHealthPorts(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{}, "serve")
	w.Spec.Ports = []int{8080, 9090}
	neverHealthy(t, c, w, func(s cell.Status) bool {
		return len(s.Addresses) == 2 && strings.Contains(s.Failure, "failed to make TCP connection to "+s.Addresses[1].Host+": connection refused\n")
	})
}

func testHealthHTTP(t *testing.T, c Cell) {
	must(t, c.Start(t.Context(), c.instance("w1", cell.Health{Type: "http", Endpoint: "/health"}, "serve")))
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	must(t, c.Stop(t.Context(), "w1"))
	neverHealthy(t, c, c.instance("w2", cell.Health{Type: "http", Endpoint: "/health"}, "serve=500"), func(s cell.Status) bool {
		return strings.Contains(s.Failure, "failed to make HTTP request to '/health' on port "+port(s)+": received status code 500 in ")
	})
}

func testHealthAsked(t *testing.T, c Cell) {
	must(t, c.Start(t.Context(), c.instance("w1", cell.Health{Type: "http", Endpoint: "/echo"}, "app")))
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	for l, err := range c.Logs(t.Context(), "w1", 0) {
		must(t, err)
		if l.Text == "asked by GET diego-healthcheck https" {
			break
		} else if strings.HasPrefix(l.Text, "asked by") {
			t.Fatalf("it is %q", l.Text)
		}
	}
	must(t, c.Stop(t.Context(), "w1"))
}

// Whatever an endpoint does, the probe ends, and the failure tells what to do.
func testNoHealth(t *testing.T, c Cell) {
	for i, k := range []struct{ path, why, advice string }{
		{"/status/404", "received status code 404 in ", `the app has no "/status/404"`},
		{"/status/401", "received status code 401 in ", "without credentials"},
		{"/status/204", "received status code 204 in ", "only status 200 is health"},
		{"/redirect", "received status code 302 in ", `redirects to "/"`},
		{"/hang", "timed out after 0.30 seconds", `let "/hang" answer at once`},
		{"/head", "longer than 65536 bytes", "few and short headers"},
		{"/garbage", "malformed HTTP", "is not plain HTTP"},
	} {
		id, timeout := "w"+string(rune('a'+i)), patience
		if k.path == "/hang" {
			timeout = 300 * time.Millisecond
		}
		neverHealthy(t, c, c.instance(id, cell.Health{Type: "http", Endpoint: k.path, Timeout: timeout}, "app"), func(s cell.Status) bool {
			first, second, _ := strings.Cut(s.Failure, "\n")
			return strings.Contains(first, "failed to make HTTP request to '"+k.path+"' on port "+port(s)+": ") && strings.Contains(first, k.why) && strings.Contains(second, k.advice)
		})
	}
}

func testEndlessBody(t *testing.T, c Cell) {
	for _, id := range []string{"drip", "flood"} {
		must(t, c.Start(t.Context(), c.instance(id, cell.Health{Type: "http", Endpoint: "/" + id, Timeout: patience}, "app")))
		until(t, c, id, "running", phase(cell.PhaseRunning))
		must(t, c.Stop(t.Context(), id))
	}
}

func testNeverHealthy(t *testing.T, c Cell) {
	s := ended(t, c, c.instance("w1", cell.Health{StartTimeout: 100 * time.Millisecond}, "hang"))
	first, second, _ := strings.Cut(s.Failure, "\n")
	if s.Reason != cell.ReasonHealth || !strings.HasSuffix(first, "failed to make TCP connection to "+s.Addresses[0].Host+": connection refused") || !strings.Contains(second, "environment variable PORT") {
		t.Errorf("status is %+v", s)
	}
	all := lines(t, c, "w1")
	_, text, _ := strings.Cut(first, "Instance never healthy after 100ms: ")
	expectLines(t, all, "CELL Starting health monitoring of container", "HEALTH "+text, "CELL Failed after 100ms: startup health check never passed.", "CELL "+second)
	if len(s.Probes) < 1 || len(s.Probes) > 10 {
		t.Fatalf("%d probes are told", len(s.Probes))
	}
	for _, p := range s.Probes {
		if p.Check != "startup" || p.OK || p.Time.IsZero() || p.Took < 0 || !strings.HasSuffix(first, p.Text) || p.Text == "" {
			t.Errorf("a probe is %+v", p)
		}
	}
}

func testUnhealthy(t *testing.T, c Cell) {
	must(t, c.Start(t.Context(), c.instance("w1", cell.Health{Type: "http", Endpoint: "/state", Interval: 10 * time.Millisecond, StartTimeout: -1}, "app")))
	s := until(t, c, "w1", "there", func(e cell.Event) bool { return len(e.Status.Addresses) > 0 }).Status
	listens(t, s)
	get(t, s, "/set/200")
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	get(t, s, "/set/500")
	s = done(t, c, "w1")
	first, second, _ := strings.Cut(s.Failure, "\n")
	if s.Reason != cell.ReasonHealth || !strings.HasPrefix(first, "Instance became unhealthy: Liveness check unsuccessful: failed to make HTTP request to '/state' on port ") || second == "" {
		t.Errorf("status is %+v", s)
	}
	_, text, _ := strings.Cut(first, ": ")
	expectLines(t, lines(t, c, "w1"), "CELL Container became healthy", "HEALTH "+text, "CELL Container became unhealthy", "CELL "+second)
	if n := len(s.Probes); n < 2 || s.Probes[n-1].OK || s.Probes[n-1].Check != "liveness" || !strings.HasSuffix(text, s.Probes[n-1].Text) || !s.Probes[n-2].OK || s.Probes[n-2].Text != "" {
		t.Errorf("the probes are %+v", s.Probes)
	}
}

// listens waits until the instance answers.
func listens(t *testing.T, s cell.Status) {
	t.Helper()
	until := time.Now().Add(patience)
	for time.Now().Before(until) {
		if resp, err := ask(s.Addresses[0], "/"); err == nil {
			resp.Body.Close()
			return
		}
	}
	t.Fatal("the app does not listen")
}

func testReadiness(t *testing.T, c Cell) {
	const passed = "Container passed the readiness health check. Container marked ready and added to route pool."
	const failed = "Container failed the readiness health check. Container marked not ready and removed from route pool."
	must(t, c.Start(t.Context(), c.instance("w1", cell.Health{Readiness: &cell.Probe{Type: "http", Endpoint: "/state", Interval: 10 * time.Millisecond}}, "app")))
	s := until(t, c, "w1", "running", phase(cell.PhaseRunning)).Status
	if !s.NotReady {
		t.Errorf("before the readiness check has passed the status is %+v", s)
	}
	ready := func(want bool) {
		t.Helper()
		until(t, c, "w1", "otherwise ready", func(e cell.Event) bool { return e.Status.Phase == cell.PhaseRunning && e.Status.NotReady != want })
	}
	get(t, s, "/set/200")
	ready(true)
	get(t, s, "/set/503")
	ready(false)
	get(t, s, "/set/200")
	ready(true)
	must(t, c.Stop(t.Context(), "w1"))
	var all []logs.Line
	for l, err := range c.Logs(t.Context(), "w1", 0) {
		if err != nil {
			break // it is gone already
		}
		if all = append(all, l); l.Text == passed && slices.ContainsFunc(all, func(l logs.Line) bool { return l.Text == failed }) {
			break
		}
	}
	if len(all) == 0 {
		return
	}
	expectLines(t, all, "CELL Container became healthy", "CELL "+passed, "CELL "+failed, "CELL "+passed)
	i := slices.IndexFunc(all, func(l logs.Line) bool { return l.Text == failed })
	if i < 1 || all[i-1].Source != "HEALTH" || !strings.HasPrefix(all[i-1].Text, "Readiness check unsuccessful: failed to make HTTP request to '/state' on port ") {
		t.Errorf("lines are\n%s", strings.Join(texts(all), "\n"))
	}
}

func testBadHealth(t *testing.T, c Cell) {
	for what, h := range map[string]cell.Health{
		`health type "magic" is not known: use port, http or process`:    {Type: "magic"},
		`readiness type "magic" is not known: use port, http or process`: {Readiness: &cell.Probe{Type: "magic"}},
		"must not be negative":                          {Interval: -1},
		`health endpoint "/\n" cannot be asked for`:     {Type: "http", Endpoint: "/\n"},
		`readiness endpoint "/%zz" cannot be asked for`: {Readiness: &cell.Probe{Type: "http", Endpoint: "/%zz"}},
	} {
		if err := c.Start(t.Context(), c.instance("w1", h, "hang")); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("Start gives %v, want %q", err, what)
		}
	}
	w := c.work("w1", "hang")
	w.Health = &cell.Health{Type: "http"}
	if err := c.Start(t.Context(), w); err == nil || !strings.Contains(err.Error(), `health type "http" needs a port`) {
		t.Errorf("Start gives %v", err)
	}
	w = c.work("w2", "hang")
	w.Spec.PIDs = -1
	if err := c.Start(t.Context(), w); err == nil || !strings.Contains(err.Error(), "a limit is negative") {
		t.Errorf("Start gives %v", err)
	}
}

func testCrash(t *testing.T, c Cell) {
	s := ended(t, c, c.instance("w1", cell.Health{Type: "process"}, "exit=1"))
	if s.Failure != "APP/PROC/WEB: Exited with status 1" || s.Reason != cell.ReasonExit {
		t.Errorf("status is %+v", s)
	}
	s = ended(t, c, c.instance("w2", cell.Health{Type: "process"}, "exit=0"))
	if first, second, _ := strings.Cut(s.Failure, "\n"); first != "APP/PROC/WEB: Exited with status 0" || !strings.Contains(second, "keep it in the foreground") {
		t.Errorf("status is %+v", s)
	}
	// Before it was ever healthy it is the exit that counts.
	s = ended(t, c, c.instance("w3", cell.Health{StartTimeout: -1}, "exit=17"))
	if s.Failure != "APP/PROC/WEB: Exited with status 17" || s.Reason != cell.ReasonExit {
		t.Errorf("status is %+v", s)
	}
}

// An instance that ends before it has run for long enough was never healthy, and one that goes on is so after that time.
func testSteady(t *testing.T, c Cell) {
	h := cell.Health{Type: "process", Steady: time.Hour, StartTimeout: -1}
	must(t, c.Start(t.Context(), c.instance("w1", h, "out=up", "exit=3")))
	until(t, c, "w1", "done", func(e cell.Event) bool {
		if e.Status.Phase == cell.PhaseRunning {
			t.Error("it was healthy before it was steady")
		}
		return e.Status.Phase == cell.PhaseDone
	})
	h.Steady = 200 * time.Millisecond
	begun := time.Now()
	must(t, c.Start(t.Context(), c.instance("w2", h, "wait")))
	until(t, c, "w2", "running", phase(cell.PhaseRunning))
	if time.Since(begun) < h.Steady {
		t.Error("it was healthy before it was steady")
	}
}

// A request that is under way when the instance is stopped gets its answer.
func testFinish(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{}, "app", "exit=0")
	w.Process.Grace = patience
	must(t, c.Start(t.Context(), w))
	s := until(t, c, "w1", "running", phase(cell.PhaseRunning)).Status
	answer := make(chan string, 1)
	go func() {
		resp, err := ask(s.Addresses[0], "/finish")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	var got []logs.Line
	for l, err := range c.Logs(t.Context(), "w1", 0) {
		must(t, err)
		if got = append(got, l); l.Text == "working" {
			must(t, c.Stop(t.Context(), "w1"))
		}
	}
	if a := <-answer; a != "finished" {
		t.Errorf("the request got %q", a)
	}
	expectLines(t, got, "APP/PROC/WEB working", "APP/PROC/WEB Exit status 0")
}

func testSidecars(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "write=up:1", "wait", "exit=0")
	w.Process.Grace = patience
	side := c.Program("out=side", "await=up", "exit=0")
	side.ID, side.Dir = "helper", w.Process.Dir
	w.Sidecars = []cell.Process{side}
	s := ended(t, c, w)
	if first, second, _ := strings.Cut(s.Failure, "\n"); first != "Codependent step exited" || !strings.Contains(second, "sidecar helper ended") || s.Exit == nil || s.Exit.Code != 0 {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, lines(t, c, "w1"), "APP/PROC/WEB/SIDECAR/HELPER side", "APP/PROC/WEB/SIDECAR/HELPER Exit status 0", "APP/PROC/WEB Exit status 0")

	// The other way round: the process ends, and its sidecar gets the same grace.
	w = c.instance("w2", cell.Health{Type: "process"}, "await=up", "exit=0")
	w.Process.Grace = patience
	side = c.Program("write=up:1", "wait", "out=goodbye", "exit=0")
	side.ID, side.Dir = "helper", w.Process.Dir
	w.Sidecars = []cell.Process{side}
	s = ended(t, c, w)
	if first, _, _ := strings.Cut(s.Failure, "\n"); first != "Codependent step exited" {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, lines(t, c, "w2"), "APP/PROC/WEB Exit status 0", "APP/PROC/WEB/SIDECAR/HELPER Exit status 0")
	expectLines(t, lines(t, c, "w2"), "APP/PROC/WEB/SIDECAR/HELPER goodbye")
}

func testSidecarEnvironment(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "env=WHO", "env=ONLY_MINE", "wait", "exit=0")
	w.Process.Env = append(w.Process.Env, "WHO=process", "ONLY_MINE=yes")
	w.Process.Grace = patience
	side := c.Program("env=WHO", "env=ONLY_MINE", "env=INSTANCE_GUID", "env=PORT", "exit=0")
	side.Env = append(side.Env, "WHO=sidecar")
	w.Spec.Ports = []int{8080}
	w.Sidecars = []cell.Process{side}
	s := ended(t, c, w)
	all := lines(t, c, "w1")
	const source = "APP/PROC/WEB/SIDECAR/SIDECAR-0 "
	expectLines(t, all, source+"WHO=sidecar", source+"ONLY_MINE=", source+"INSTANCE_GUID=w1", source+"PORT="+port(s))
}

func testSidecarAbsent(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "hang")
	w.Sidecars = []cell.Process{{ID: "helper", Path: "/no/such/program"}}
	if s := ended(t, c, w); s.Reason != cell.ReasonExit || !strings.HasPrefix(s.Failure, "APP/PROC/WEB/SIDECAR/HELPER: ") {
		t.Errorf("status is %+v", s)
	}
	w.ID, w.Sidecars = "w2", []cell.Process{{ID: "main", Path: "x"}}
	if err := c.Start(t.Context(), w); err == nil || !strings.Contains(err.Error(), `two processes have the id "main"`) {
		t.Errorf("Start gives %v", err)
	}
	w.Sidecars = []cell.Process{{ID: "helper"}}
	if err := c.Start(t.Context(), w); err == nil || !strings.Contains(err.Error(), "Path of sidecar helper is empty") {
		t.Errorf("Start gives %v", err)
	}
}

func testSidecarFails(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "hang")
	side := c.Program("exit=9")
	side.ID = "helper"
	w.Sidecars = []cell.Process{side}
	if s := ended(t, c, w); s.Failure != "APP/PROC/WEB/SIDECAR/HELPER: Exited with status 9" || s.Reason != cell.ReasonExit {
		t.Errorf("status is %+v", s)
	}
}

// An instance takes its memory once, however many processes are in it.
func testSidecarsCount(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "hang")
	w.Spec.Memory = 1 << 20
	w.Sidecars = []cell.Process{c.Program("hang"), c.Program("hang")}
	must(t, c.Start(t.Context(), w))
	st, err := c.State(t.Context())
	must(t, err)
	if taken := st.Total.Memory - st.Free.Memory; taken != 1<<20 {
		t.Errorf("an instance of 1 MiB with two sidecars takes %d", taken)
	}
	must(t, c.Stop(t.Context(), "w1"))
}
