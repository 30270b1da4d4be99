package dewpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// newLRP makes an id for what the scheduler runs of a process; what it runs cannot change.
func (p *Platform) newLRP(a App, pr Process) lrp.ID {
	id := a.ID + "-" + p.newID()[:8]
	if pr.Type != Web {
		id += "-" + pr.Type
	}
	return lrp.ID(id[:min(len(id), 128)])
}

// ErrNoCommand is the answer to a process that nothing says how to start.
var ErrNoCommand = errors.New("Start command not specified") //nolint:staticcheck // Cloud Foundry's words

// webPorts are those that a web process listens on, in its container's numbers.
var webPorts = []int{8080}

// desired builds what the scheduler is told of a process, whose LRP is set.
func (p *Platform) desired(a App, pr Process) (lrp.Desired, error) {
	if a.Image != nil && a.Droplet == "" {
		return p.desiredImage(a, pr)
	}
	d, ok := droplets.Get(p.db.View(), a.Droplet)
	if !ok {
		return lrp.Desired{}, fmt.Errorf("app %s has no droplet; push it first", a.Name)
	}
	command := cmp.Or(pr.Command, d.Command(pr.Type))
	if command == "" {
		return lrp.Desired{}, fmt.Errorf("process %s: %w: the buildpack named no such process; give a command with the push, or a line \"TYPE: COMMAND\" in a Procfile", pr.Type, ErrNoCommand)
	}
	env := p.environment(a, pr, []string{"LANG=en_US.UTF-8"})
	run := func(id, command string) cell.Process {
		return cell.Process{
			ID: id, Path: "lifecycle:launcher", Args: []string{"{{path /home/vcap/app}}", command, ""},
			Env: env, Dir: "/home/vcap/app", Grace: cmp.Or(pr.Grace, lrp.DefaultGrace),
		}
	}
	all := skeleton(a, pr, nil)
	w := &all.Work
	w.Spec.Stack = a.Stack
	w.Layers = []cell.Input{{Source: blobSource(d.Key), Dir: "/home/vcap", SHA256: d.SHA256, Name: "droplet"}}
	w.Process = run("", command)
	for _, s := range d.Sidecars {
		if slices.Contains(s.ProcessTypes, pr.Type) {
			w.Sidecars = append(w.Sidecars, run(s.Name, s.Command))
		}
	}
	return all, nil
}

// skeleton is all of a process but what it is made of and how it is started. Web listens on the ports that it
// was given, else on those known of what it is made of, else on webPorts.
func skeleton(a App, pr Process, known []int) lrp.Desired {
	ports := pr.Ports
	if pr.Type == Web && len(ports) == 0 {
		if ports = known; len(ports) == 0 {
			ports = webPorts
		}
	}
	h := pr.health(ports)
	return lrp.Desired{ID: pr.LRP, Instances: pr.Instances, Annotation: a.ID, Work: cell.Work{
		Spec: cell.Spec{
			Tags: a.Tags, Isolation: a.Isolation, Memory: pr.Memory, Disk: pr.Disk, CPU: cpuWeight(pr.Memory),
			PIDs: 1024, NoFile: 16384, LogRate: pr.LogRate, Ports: ports,
		},
		Health: &h,
		Log:    cell.LogTag{App: a.ID, Source: "APP/PROC/" + strings.ToUpper(pr.Type)},
	}}
}

// environment is that of a process: what it is made of says, then the app, then what neither can set.
func (p *Platform) environment(a App, pr Process, base []string) []string {
	return slices.Concat(base, []string{"VCAP_APP_HOST=0.0.0.0"}, a.Env, []string{
		"MEMORY_LIMIT=" + strconv.FormatInt(pr.Memory>>20, 10) + "m", "VCAP_APPLICATION=" + p.vcapApplication(a, pr), "VCAP_SERVICES={}",
	})
}

// steady is how long a process must have run that nothing else is known of: else one that dies at once has taken the place of
// one that did not.
const steady = time.Second

// health is how the health of a process with such ports is learned.
func (pr *Process) health(ports []int) cell.Health {
	h := pr.Health
	if h.Steady == 0 && (h.Type == "process" || len(ports) == 0) {
		h.Steady = steady
	}
	return h
}

// cpuWeight is Cloud Foundry's: a share of 100 that follows memory between 128 MB and 8 GB
// (lib/cloud_controller/diego/task_cpu_weight_calculator.rb).
func cpuWeight(memory int64) int {
	mb := min(max(memory>>20, 128), 8192)
	return int(100 * mb / 8192)
}

func (p *Platform) vcapApplication(a App, pr Process) string {
	hosts := p.hosts(a.ID)
	b, err := json.Marshal(map[string]any{
		"application_id": a.ID, "application_name": a.Name, "name": a.Name,
		"application_uris": hosts, "uris": hosts,
		"limits":       map[string]int64{"mem": pr.Memory >> 20, "disk": pr.Disk >> 20, "fds": 16384},
		"process_type": pr.Type, "process_id": string(pr.LRP),
	})
	if err != nil {
		return "{}"
	}
	return string(b)
}
