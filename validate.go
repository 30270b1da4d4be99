package dewpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// Validate says in one sentence what of the request could never work; Push begins with it.
// Whether the files can be pushed is not looked at.
func (r *PushRequest) Validate() error {
	switch {
	case r.Name == "":
		return errors.New("push: the app has no name; set PushRequest.Name")
	case !validName(r.Name):
		return fmt.Errorf("push: app name %q: use letters, digits, \"-\", \"_\" and \".\", at most 63 of them", r.Name)
	case given(r.Files != nil, r.Path != "", r.Image != "") != 1:
		return fmt.Errorf("push %s: set one of PushRequest.Path and PushRequest.Files, the app's files, and PushRequest.Image", r.Name)
	case r.Image == "" && (r.ImageUsername != "" || r.ImagePassword != ""):
		return fmt.Errorf("push %s: credentials of an image without PushRequest.Image", r.Name)
	case r.Image != "" && len(r.Buildpacks) > 0:
		return fmt.Errorf("push %s: an image is not built, so there is no use for buildpacks", r.Name)
	}
	if err := r.validatePlace(); err != nil {
		return fmt.Errorf("push %s: %w", r.Name, err)
	}
	for _, p := range r.processes() {
		if err := p.validate(); err != nil {
			return fmt.Errorf("push %s: %w", r.Name, err)
		}
	}
	for _, h := range r.Hosts {
		if !validHost(h) {
			return fmt.Errorf("push %s: host %q: write a name such as www.example.com or *.example.com, without port and path", r.Name, h)
		}
	}
	for _, kv := range r.Env {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ContainsRune(kv, 0) {
			return fmt.Errorf("push %s: environment %q: write NAME=VALUE", r.Name, kv)
		}
		if strings.HasPrefix(k, "VCAP_") || k == "PORT" {
			return fmt.Errorf("push %s: environment %s is set by the platform; choose another name", r.Name, k)
		}
	}
	return nil
}

// given counts what is there.
func given(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// validatePlace looks at where and how it is to run.
func (r *PushRequest) validatePlace() error {
	if r.Isolation != "" && !slices.Contains(cell.Isolations(), r.Isolation) {
		return fmt.Errorf("isolation %q is not known: use one of %s", r.Isolation, strings.Join(cell.Isolations(), ", "))
	}
	for _, t := range r.Tags {
		if t == "" || strings.TrimSpace(t) != t {
			return fmt.Errorf("placement tag %q: leave out what is empty, and spaces around it", t)
		}
	}
	if !slices.Contains([]Strategy{"", Rolling, BlueGreen, Recreate}, r.Strategy) {
		return fmt.Errorf("strategy %q is not known: use %q, %q or %q", r.Strategy, Rolling, BlueGreen, Recreate)
	}
	return nil
}

// processes are the settings of all processes, web first.
func (r *PushRequest) processes() []ProcessRequest {
	web := ProcessRequest{Type: Web, Instances: r.Instances, Memory: r.Memory, Disk: r.Disk, Command: r.Command, Health: r.Health,
		Ports: r.Ports, User: r.User, LogRate: r.LogRate, Grace: r.Grace}
	return append([]ProcessRequest{web}, r.Processes...)
}

func (p *ProcessRequest) validate() error {
	switch {
	case !validName(p.Type):
		return fmt.Errorf("process type %q: use letters, digits, \"-\", \"_\" and \".\", at most 63 of them", p.Type)
	case p.Instances != nil && *p.Instances < 0:
		return fmt.Errorf("process %s: %d instances: the number cannot be negative", p.Type, *p.Instances)
	case p.Instances != nil && *p.Instances > lrp.MaxInstances:
		return fmt.Errorf("process %s: %d instances: %d is the most", p.Type, *p.Instances, lrp.MaxInstances)
	case p.Memory < 0 || p.Disk < 0:
		return fmt.Errorf("process %s: memory %d, disk %d: neither can be negative", p.Type, p.Memory, p.Disk)
	case p.Grace < 0:
		return fmt.Errorf("process %s: grace of %v: it cannot be negative; 0 is as it was, or %v", p.Type, p.Grace, lrp.DefaultGrace)
	}
	ports := p.Ports
	if err := checkPorts(ports); err != nil {
		return fmt.Errorf("process %s: %w", p.Type, err)
	}
	if p.Type == Web && len(ports) == 0 {
		ports = webPorts
	}
	if err := cell.CheckHealth(p.Health, ports); err != nil {
		return fmt.Errorf("process %s: %w", p.Type, err)
	}
	return nil
}

// checkPorts holds Cloud Foundry's bounds for ports that users choose.
func checkPorts(ports []int) error {
	if len(ports) > 10 {
		return fmt.Errorf("%d ports: 10 are the most", len(ports))
	}
	for i, n := range ports {
		switch {
		case n < 1024 || n > 65535:
			return fmt.Errorf("port %d: use 1024 to 65535", n)
		case slices.Contains(ports[:i], n):
			return fmt.Errorf("port %d is there twice", n)
		}
	}
	return nil
}

func validHost(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !validName(label) {
			return false
		}
	}
	return true
}

func validName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
