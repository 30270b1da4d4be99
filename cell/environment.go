package cell

import (
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"strings"
)

// dressed returns p as it runs in the job's container: with what only the cell knows in
// its environment, and with the names that paths have inside.
func (j *job) dressed(p Process) Process {
	p.Env = append(slices.Clone(p.Env), j.environment()...)
	name := func(s string) string { return s }
	if inside, ok := j.con.(Pather); ok {
		name = inside.Path
	}
	p.Args = slices.Clone(p.Args)
	for _, list := range [][]string{p.Args, p.Env} {
		for i, s := range list {
			list[i] = replacePaths(s, name)
		}
	}
	return p
}

// replacePaths puts names in the place of "{{path X}}".
func replacePaths(s string, name func(string) string) string {
	const begin, end = "{{path ", "}}"
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, begin)
		p, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			return b.String() + s
		}
		b.WriteString(before)
		b.WriteString(name(strings.TrimSpace(p)))
		s = after
	}
}

type portMapping struct {
	External int `json:"external"`
	Internal int `json:"internal"`
}

// environment is what Cloud Foundry tells every instance. It stands last, so it wins.
func (j *job) environment() []string {
	env := []string{"INSTANCE_GUID=" + j.work.ID, "CF_INSTANCE_GUID=" + j.work.ID}
	if j.work.LRP != "" || j.work.Health != nil {
		index := strconv.Itoa(j.work.Index)
		env = append(env, "INSTANCE_INDEX="+index, "CF_INSTANCE_INDEX="+index)
	}
	ip := j.a.cfg.IP
	mappings := []portMapping{}
	addresses := j.con.Info().Addresses
	if len(addresses) == 0 {
		env = append(env, "CF_INSTANCE_PORT=", "CF_INSTANCE_ADDR=")
	}
	for i, a := range addresses {
		host, port, err := net.SplitHostPort(a.Host)
		if err != nil {
			continue
		}
		external, _ := strconv.Atoi(port)
		mappings = append(mappings, portMapping{external, a.Port})
		if ip == "" {
			ip = host
		}
		if i == 0 {
			inside := strconv.Itoa(a.Port)
			env = append(env, "PORT="+inside, "VCAP_APP_HOST=0.0.0.0", "VCAP_APP_PORT="+inside,
				"CF_INSTANCE_PORT="+port, "CF_INSTANCE_ADDR="+net.JoinHostPort(ip, port))
		}
	}
	if ip == "" {
		ip = "127.0.0.1"
	}
	ports, _ := json.Marshal(mappings) // cannot fail: plain numbers
	return append(env, "CF_INSTANCE_IP="+ip, "CF_INSTANCE_INTERNAL_IP="+ip, "CF_INSTANCE_PORTS="+string(ports))
}
