package staging

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
)

// What every staging is given: Cloud Foundry's figures.
const (
	MinMemory = 1 << 30 // bytes
	MinDisk   = 4 << 30 // bytes
	NoFile    = 16384
	PIDs      = 1024
	CPU       = 50 // weight
)

// Spec returns the container for a staging: what r asks for, raised to the least that
// staging is given.
func Spec(r Request) cell.Spec {
	return cell.Spec{
		Stack: r.Stack, Memory: max(r.Memory, MinMemory), Disk: max(r.Disk, MinDisk),
		CPU: CPU, PIDs: PIDs, NoFile: NoFile,
	}
}

// Env returns the environment of a staging, each name once. Later wins: LANG, base (the
// cell's: PATH and the like), the group of all apps, the app's own, CF_STACK,
// VCAP_APPLICATION, MEMORY_LIMIT and VCAP_SERVICES. So an app cannot forge what the
// platform says, and VCAP_SERVICES is the app's own only where the platform has none to give.
func Env(r Request, base, group []string) []string {
	spec := Spec(r)
	env := append([]string{"LANG=en_US.UTF-8"}, base...)
	env = append(env, group...)
	env = append(env, r.Env...)
	if r.Stack != "" {
		env = append(env, "CF_STACK="+r.Stack)
	}
	env = append(env,
		"VCAP_APPLICATION="+application(r, spec),
		fmt.Sprintf("MEMORY_LIMIT=%dm", spec.Memory>>20))
	if len(r.Services) > 0 {
		env = append(env, "VCAP_SERVICES="+string(r.Services))
	}
	return once(env)
}

// application is VCAP_APPLICATION: the caller's own, or what the Request tells.
func application(r Request, spec cell.Spec) string {
	if len(r.Application) > 0 {
		return string(r.Application)
	}
	b, err := json.Marshal(map[string]any{
		"application_id": r.App, "application_name": r.AppName, "name": r.AppName,
		"application_uris": []string{}, "uris": []string{},
		"limits": map[string]int64{"fds": NoFile, "mem": spec.Memory >> 20, "disk": spec.Disk >> 20},
	})
	if err != nil { // strings and numbers: cannot be
		panic(err)
	}
	return string(b)
}

// once keeps the last value of each name, at the place where the name came first.
func once(env []string) []string {
	at := make(map[string]int, len(env))
	out := make([]string, 0, len(env))
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}
