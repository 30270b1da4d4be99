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
func (j *job) dressed(con Container, p Process) Process {
	p.Env = append(slices.Clone(p.Env), j.environment(con)...)
	name := func(s string) string { return s }
	if inside, ok := con.(Pather); ok {
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

// fixedPath explains the end of a process that names a path of Cloud Foundry's containers
// where paths are called otherwise; else "".
func (j *job) fixedPath(e Exit) string {
	inside, ok := j.con.(Pather)
	if !ok || e.Code == 0 || e.Signal != "" {
		return ""
	}
	name := fixedPath(j.log.tail(20))
	if name == "" || inside.Path(name) == name {
		return ""
	}
	return "a script or command names " + name + ", which exists only on a cell with a root filesystem: " +
		"here use its arguments, HOME, TMPDIR and DEPS_DIR"
}

// absent is how shells and interpreters say that a file is not there.
var absent = []string{"No such file", "no such file", "ENOENT", "not found", "can't cd", "can't open", "Cannot find", "cannot find", "does not exist"}

// fixedPath finds such a path in lines that say that it is not there. In a folder that has
// another name the same words stand in the middle of a path.
func fixedPath(lines []string) string {
	for _, l := range lines {
		if !slices.ContainsFunc(absent, func(s string) bool { return strings.Contains(l, s) }) {
			continue
		}
		for _, dir := range []string{"/home/vcap", "/tmp/app", "/tmp/cache", "/tmp/buildpacks"} {
			for i := range l {
				rest, ok := strings.CutPrefix(l[i:], dir)
				if !ok || i > 0 && !strings.ContainsRune(" \t'\"`:=([‘", rune(l[i-1])) && l[i-1] < 0x80 {
					continue
				}
				end := strings.IndexAny(rest, " \t'\"`:,)]’")
				if end < 0 {
					end = len(rest)
				}
				if end == 0 || rest[0] == '/' {
					return dir + rest[:end]
				}
			}
		}
	}
	return ""
}

type portMapping struct {
	External int `json:"external"`
	Internal int `json:"internal"`
}

// environment is what Cloud Foundry tells every instance. It stands last, so it wins.
func (j *job) environment(con Container) []string {
	env := []string{"INSTANCE_GUID=" + j.work.ID, "CF_INSTANCE_GUID=" + j.work.ID}
	if j.work.LRP != "" || j.work.Health != nil {
		index := strconv.Itoa(j.work.Index)
		env = append(env, "INSTANCE_INDEX="+index, "CF_INSTANCE_INDEX="+index)
	}
	ip := j.a.cfg.IP
	mappings := []portMapping{}
	addresses := con.Info().Addresses
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
