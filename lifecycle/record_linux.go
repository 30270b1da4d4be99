package lifecycle

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Record writes down in a folder, which exists, that this process runs there, for [InitState]: a role that others have to
// find calls it.
func Record(dir string) error {
	self := started{PID: ownPID(), Boot: bootID(), Time: time.Now().UTC()}
	self.Start, _ = processStart(self.PID)
	return recordStarted(dir, self)
}

// InitEnded returns a channel that closes when an init, or what [Record] has recorded, has ended; nil: this kernel (before 5.3)
// does not tell, and [InitState] is to be asked.
func InitEnded(state string) <-chan struct{} {
	done := make(chan struct{})
	s, err := InitState(state)
	if err != nil || !s.Alive {
		close(done)
		return done
	}
	fd, err := unix.PidfdOpen(s.PID, unix.PIDFD_NONBLOCK)
	if err != nil { // it has ended meanwhile, or the kernel is old: then it is asked for
		if errors.Is(err, unix.ESRCH) {
			close(done)
			return done
		}
		return nil
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	go func() {
		defer close(done)
		defer func() { _ = f.Close() }() // only watched
		AwaitEnd(f)
	}()
	return done
}

// AwaitEnd returns when the process of a descriptor (pidfd_open(2), with PIDFD_NONBLOCK) has ended, or the file is closed. It takes no
// thread meanwhile.
func AwaitEnd(pidfd *os.File) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // an error is the end of watching
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}
