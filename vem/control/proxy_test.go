package control

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
)

// Trouble is what a proxy does with one record of TLS.
type trouble int

const (
	cutBefore trouble = iota // closes the connection instead of forwarding it
	cutWithin                // forwards half of it, and closes the connection
	stall                    // forwards it, and nothing more in that direction, until the proxy is healed
	delay                    // forwards it after the other direction has had a chance
)

func (t trouble) String() string {
	return [...]string{"cut before", "cut within", "stall", "delay"}[t]
}

// proxy forwards connections record by record. It makes trouble once, in its first connection.
type proxy struct {
	to      netip.AddrPort
	trouble trouble
	record  int  // which one, counted from 0
	answers bool // whether of the server, else of the client

	mu     sync.Mutex
	conns  int
	struck bool // the trouble was made
	open   []net.Conn
	healed chan struct{}
}

// startProxy starts a proxy, and returns where it listens.
func startProxy(t *testing.T, p *proxy) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	p.healed = make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { p.forward(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.heal()
		p.cut()
		wait.Wait()
	})
	return addrPort(ln.Addr())
}

// heal ends a stall.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.healed:
	default:
		close(p.healed)
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

func (p *proxy) hasStruck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.struck
}

func (p *proxy) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to.String())
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	first := p.conns == 0
	p.conns++
	p.open = append(p.open, client, server)
	p.mu.Unlock()
	both := func() { client.Close(); server.Close() }
	var wait sync.WaitGroup
	wait.Go(func() { defer both(); p.records(client, server, first && !p.answers) })
	wait.Go(func() { defer both(); p.records(server, client, first && p.answers) })
	wait.Wait()
}

// records forwards the records of one direction until it ends.
func (p *proxy) records(from, to net.Conn, trouble bool) {
	for n := 0; ; n++ {
		header := make([]byte, 5) // RFC 8446, 5.1
		if _, err := io.ReadFull(from, header); err != nil {
			return
		}
		record := append(header, make([]byte, binary.BigEndian.Uint16(header[3:]))...)
		if _, err := io.ReadFull(from, record[5:]); err != nil {
			return
		}
		struck := trouble && n == p.record
		if struck {
			p.mu.Lock()
			p.struck = true
			p.mu.Unlock()
			switch p.trouble {
			case cutBefore:
				return
			case cutWithin:
				_, _ = to.Write(record[:len(record)/2])
				return
			case stall:
			case delay:
				<-p.healed
			}
		}
		if _, err := to.Write(record); err != nil {
			return
		}
		if struck && p.trouble == stall {
			<-p.healed
		}
	}
}
