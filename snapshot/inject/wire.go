package inject

// Command is the argument with which the daemon's binary is started to run [Serve].
const Command = "inject"

// Call is a system call that opens a descriptor.
type Call struct {
	Number uintptr // as in package unix, SYS_USERFAULTFD
	Args   [6]uint64
}

// request is one message to the tracer, an [encoding/gob] value.
type request struct {
	PID  int
	Call Call
}

// answer is what comes back for each request.
type answer struct {
	Err         string
	Errno       int  // of the call, if that failed
	Unsupported bool // the error is ErrUnsupported
	Ended       bool // the tracer ends, so that the kernel lets go of what did not stop
	Descriptor  int  // in the tracer, until the next request
}
