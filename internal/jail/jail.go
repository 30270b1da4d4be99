// Package jail makes a program run with a root filesystem, processes and powers of its own, without
// being root. It needs no other program and no C.
//
// Three processes take part. The first is started in new namespaces (see [Attr]), in which it is PID 1; it stays in the
// machine's own filesystem, and there is one for all programs of a container. It starts a second for each of them, in a
// namespace of processes of its own. That starts the third in a new mount namespace, which calls [Enter]: it builds the
// root, goes there, lets go of all powers and becomes the program. Where that is one of several [Users], the third has not the powers to
// build a root, so the second does ([Leave], [Build]). Where somebody else has made the container (Spec.Built, Spec.Mounted) the
// first two are in it.
package jail

import (
	"fmt"
	"math"
)

// Spec is what a program shall see. Paths called "inside" are those of the new root.
type Spec struct {
	// Rules, if set, are all: there are no namespaces and no new root, and paths inside are those outside.
	Rules *Rules `json:"rules,omitempty"`

	// Built: the root is there, and this process in it, as PID 1 of the container has been put there by somebody
	// else. Then Binds only say what may be written to.
	Built bool `json:"built,omitempty"`

	// Mount is an empty folder outside, over which the root is built; nobody else sees that.
	Mount string `json:"mount"`
	// Binds are parts of the machine's filesystem, in their order.
	Binds []Bind `json:"binds"`
	// Links are symbolic links inside, by name.
	Links map[string]string `json:"links,omitempty"`
	// Files are small read-only files inside, by name.
	Files map[string]string `json:"files,omitempty"`
	// Hostname is what the machine is called.
	Hostname string `json:"hostname,omitempty"`
	// Image, if set, is a folder outside that is the root itself, and may be written to; then Mount is only where it is put in
	// its place.
	Image string `json:"image,omitempty"`
	// Mounted: /dev, /proc and /sys are there outside as the container is to have them, and are shown so with an Image.
	Mounted bool `json:"mounted,omitempty"`
	// User and Group, if User is not 0, are who to become; else it stays who it is.
	User  int `json:"user,omitempty"`
	Group int `json:"group,omitempty"`
	// Users, if set, are those that the program may become, itself one of them, 0 too. Its process begins as their root (Child).
	Users *Users `json:"users,omitempty"`
	// PIDs is how many processes and threads there may be at a time; 0: no limit. Others is how many there are that
	// count, but are not the program's.
	PIDs   uint64 `json:"pids,omitempty"`
	Others uint64 `json:"others,omitempty"`
	// NoFile is how many files it may have open; 0: as who starts it.
	NoFile uint64 `json:"nofile,omitempty"`
	// Env is its environment.
	Env [][]byte `json:"env,omitempty"`
	// Dir is where the program begins, inside.
	Dir string `json:"dir"`
	// Roles is the lifecycle program, inside: "lifecycle:NAME" is a role of it.
	Roles string `json:"roles"`
	// Loader, if set, is what starts it, inside: it is a dynamic program of another root. Its libraries are beside it.
	Loader string `json:"loader,omitempty"`
}

// Users gives a program users and groups: 0 to Count-1 are First and following where its init is.
type Users struct {
	First int `json:"first"`
	Count int `json:"count"`
}

// ImageUsers is how many users and groups an image has that has users of its own.
const ImageUsers = 1 << 16

// UsersFrom is what a FirstUser means, in whatever configuration; nil for 0.
func UsersFrom(first int) (*Users, error) {
	if first == 0 {
		return nil, nil
	}
	if first < ImageUsers || int64(first) > math.MaxUint32-2*ImageUsers {
		return nil, fmt.Errorf("FirstUser is %d: give the first of %d users and groups that nobody has on this machine, such as cell.FirstUser", first, ImageUsers)
	}
	return &Users{First: first, Count: ImageUsers}, nil
}

// Outside is what the program's user is called where its init is; false if that is who init is.
func (s *Spec) Outside() (int, bool) {
	if s.Users != nil {
		return s.Users.First + s.User, true
	}
	return s.User, s.User != 0
}

// Apart tells whether somebody else than the program's process has to build its root: as one of Users it has not the powers. It is
// there before, as nothing is run by its name in a root that others may change.
func (s *Spec) Apart() bool { return s.Users != nil && !s.Built }

// Bind makes a file or folder outside appear inside.
type Bind struct {
	From string `json:"from"`
	// To is made if its parent is part of no other Bind; else it must be there.
	To    string `json:"to"`
	Write bool   `json:"write,omitempty"`
	// Optional: passed over where From, or the place for it, does not exist.
	Optional bool `json:"optional,omitempty"`
}

// A ProgramError tells that all was ready, but the program cannot be run. Code is what a shell gives.
type ProgramError struct {
	Code int
	Text string
}

func (e *ProgramError) Error() string { return e.Text }

// Rules are what Landlock allows of the machine's filesystem. What does not exist is passed over.
type Rules struct {
	Read  []string `json:"read"`  // and execute
	Write []string `json:"write"` // and read and execute
}
