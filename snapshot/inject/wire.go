package inject

// Command is the argument with which the daemon's binary is started to run [Serve].
const Command = "inject"

// Call is a system call.
type Call struct {
	Number uintptr // as in package unix, SYS_CLOSE_RANGE
	Args   [6]uint64
}

// Target is a process that calls are made in.
type Target struct {
	PID int
	// Above is a number that is greater than those of all descriptors which are going to be put in.
	// Our own descriptors in the process, two, get numbers from there on; the process's limit of
	// open files has to allow it. 0: any.
	Above int
}

// request is one message to the process, an [encoding/gob] value: Stop is the first one.
type request struct {
	Stop    *stop
	PID     int
	Calls   []Call
	Release bool
}

type stop struct {
	Cgroup  string // empty: only one thread of each process is stopped
	Targets []Target
}

// answer is what comes back for each request.
type answer struct {
	Err         string
	Unsupported bool // the error is ErrUnsupported
	Results     []int64
	Places      map[int]place // of each process, for Stop
}

// place is what a process lends.
type place struct {
	Scratch uint64 // address of scratchSize bytes that calls may refer to
	Inside  int    // a socket in the process
	Outside int    // the other end of it, in the process too
}

const scratchSize = 64 << 10

// maxCalls is how many calls the table has room for, with ours at its end.
const maxCalls = 1000
