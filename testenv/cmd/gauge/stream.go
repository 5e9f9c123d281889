package main

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// stream is a TCP connection of the program to itself.
type stream struct{ from, to net.Conn }

func newStream() (*stream, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	from, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return nil, err
	}
	to, err := l.Accept()
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return &stream{from, to}, nil
}

func (s *stream) close() error { return errors.Join(s.from.Close(), s.to.Close()) }

// carry sends so many MiB through the connection, and returns how long it took until they
// were read.
func (s *stream) carry(mib int) (time.Duration, error) {
	began := time.Now()
	sent := make(chan error, 1)
	go func() {
		b := make([]byte, 64<<10)
		for range mib << 20 / len(b) {
			if _, err := s.from.Write(b); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	b := make([]byte, 256<<10)
	for left := mib << 20; left > 0; {
		n, err := s.to.Read(b)
		if err != nil {
			return 0, fmt.Errorf("read from itself: %w", err)
		}
		left -= n
	}
	took := time.Since(began)
	return took, <-sent
}

// carry measures the connection that the program keeps, or one that it makes.
func (g *gauge) carry(which string, mib int) (time.Duration, error) {
	if which == "kept" {
		if g.kept == nil {
			var err error
			if g.kept, err = newStream(); err != nil {
				return 0, err
			}
		}
		return g.kept.carry(mib)
	}
	s, err := newStream()
	if err != nil {
		return 0, err
	}
	took, err := s.carry(mib)
	return took, errors.Join(err, s.close())
}
