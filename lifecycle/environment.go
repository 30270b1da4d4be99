package lifecycle

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// environmentFile, in the state folder of an init, is the environment of its process: what is set there is none of init's business, and
// a loader that heeds it would run the app's libraries as init.
const environmentFile = "environment"

// WriteEnvironment gives the process of an init its environment, of which the last of a name counts. State is the init's state folder,
// which exists; the init takes the file away. Without it the process has init's own.
func WriteEnvironment(state string, env []string) error {
	all := (&exec.Cmd{Env: append([]string{}, env...)}).Environ() // nil would be this program's own
	return os.WriteFile(filepath.Join(state, environmentFile), []byte(strings.Join(all, "\x00")), 0o600)
}

// takeEnvironment reads what WriteEnvironment has written, and removes it.
func takeEnvironment(state string) (environ, error) {
	name := filepath.Join(state, environmentFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return os.Environ(), nil
	} else if err != nil {
		return nil, err
	}
	var env environ
	if len(b) > 0 {
		env = strings.Split(string(b), "\x00")
	}
	return env, os.Remove(name)
}

// environ is a list of "K=V", each name once.
type environ []string

func (e environ) get(name string) string {
	v, _ := e.lookup(name)
	return v
}

func (e environ) lookup(name string) (string, bool) {
	for _, kv := range e {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v, true
		}
	}
	return "", false
}

func (e *environ) set(name, value string) {
	e.unset(name)
	*e = append(*e, name+"="+value)
}

func (e *environ) unset(name string) {
	kept := make(environ, 0, len(*e)+1)
	for _, kv := range *e {
		if k, _, _ := strings.Cut(kv, "="); k != name {
			kept = append(kept, kv)
		}
	}
	*e = kept
}

// setDatabaseURL sets DATABASE_URL from the first bound service that is a database.
func (e *environ) setDatabaseURL() {
	if uri := databaseURL([]byte(e.get("VCAP_SERVICES"))); uri != "" {
		e.set("DATABASE_URL", uri)
	}
}

// databaseURL reads VCAP_SERVICES, in its order. "" if there is no database; what is not
// JSON has none.
func databaseURL(services []byte) string {
	d := json.NewDecoder(strings.NewReader(string(services)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	for d.More() {
		if _, err := d.Token(); err != nil {
			return ""
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return ""
		}
		var bound []struct {
			Credentials struct {
				URI any `json:"uri"`
			} `json:"credentials"`
		}
		if json.Unmarshal(raw, &bound) != nil {
			continue // credentials that are not an object
		}
		for _, b := range bound {
			uri, _ := b.Credentials.URI.(string)
			scheme, rest, ok := strings.Cut(uri, "://")
			if !ok {
				continue
			}
			switch scheme {
			case "mysql", "mysql2":
				return "mysql2://" + rest
			case "postgres", "postgresql":
				return "postgres://" + rest
			}
		}
	}
	return ""
}

// completeApplication adds to VCAP_APPLICATION what only a running instance has.
func (e *environ) completeApplication() {
	var app map[string]json.RawMessage
	if json.Unmarshal([]byte(e.get("VCAP_APPLICATION")), &app) != nil || app == nil {
		return
	}
	put := func(key string, v any) {
		if b, err := json.Marshal(v); err == nil {
			app[key] = b
		}
	}
	put("host", "0.0.0.0")
	put("instance_id", e.first("CF_INSTANCE_GUID", "INSTANCE_GUID"))
	if n, err := strconv.Atoi(e.get("PORT")); err == nil {
		put("port", n)
	}
	if n, err := strconv.Atoi(e.first("CF_INSTANCE_INDEX", "INSTANCE_INDEX")); err == nil {
		put("instance_index", n)
	}
	if b, err := json.Marshal(app); err == nil {
		e.set("VCAP_APPLICATION", string(b))
	}
}

func (e environ) first(names ...string) string {
	for _, n := range names {
		if v := e.get(n); v != "" {
			return v
		}
	}
	return ""
}
