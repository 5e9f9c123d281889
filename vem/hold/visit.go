package hold

// OpenSocket is a socket of an app, while it is visited.
type OpenSocket struct {
	Inode uint64 // by which the app's images know it, or will
	Owner Owner  // one of those who have it open
	// FD is a duplicate, which is closed afterwards.
	FD int
}

// EachSocket visits every socket that is held, once each.
func (s *Set) EachSocket(visit func(OpenSocket) error) error {
	for i := range s.Sockets {
		k := &s.Sockets[i]
		at := OpenSocket{Inode: k.ImageInode(), FD: int(k.File.Fd())}
		if len(k.Owners) > 0 {
			at.Owner = k.Owners[0]
		}
		if err := visit(at); err != nil {
			return err
		}
	}
	return nil
}
