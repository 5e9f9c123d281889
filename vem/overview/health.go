package overview

import "time"

// Health is how it stands with the hosts of an installation, as this one sees it.
type Health struct {
	Hosts   map[string]HostHealth // the others
	Trouble error                 // why the directory can't be asked now; nil: it can
}

// HostHealth is how it stands with another host.
type HostHealth struct {
	// Since is when this host saw that the other one came up, or fell silent; zero: that is not
	// known.
	Since   time.Time
	Control Control
}

// Control is how it stands with the control channel to a host.
type Control struct {
	Connected bool
	Address   string    // where the host answers, with the port
	Since     time.Time // when it was connected
	Version   string    // of the snapctld there, as it said last; empty: it never did
	// Skew is how far its clock is ahead, right to half of RoundTrip, if it is connected.
	Skew, RoundTrip time.Duration
	Err             error  // why it is not connected; nil: that is not known yet
	Remedy          string // what to do about Err
	Incompatible    bool   // Err is that both have no version of the protocol in common
}
