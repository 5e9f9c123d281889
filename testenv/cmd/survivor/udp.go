package main

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// udp has datagrams of two senders in its queue.
func udp() (check, error) {
	to, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7001})
	if err != nil {
		return nil, err
	}
	var from [2]*net.UDPConn
	for i := range from {
		if from[i], err = net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr)); err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintf(from[i], "early %d", i); err != nil {
			return nil, err
		}
	}
	return func(arg string) error {
		if arg == "copy" { // its sockets are new and empty
			return nil
		}
		buf := make([]byte, 100)
		for round := range 2 {
			for i := range from {
				if round == 1 {
					if _, err := fmt.Fprintf(from[i], "late %d", i); err != nil {
						return err
					}
				}
				if err := to.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					return err
				}
				n, addr, err := to.ReadFromUDPAddrPort(buf)
				if err != nil {
					return err
				}
				want := fmt.Sprintf("%s %d", []string{"early", "late"}[round], i)
				if err := errors.Join(same("datagram", string(buf[:n]), want), same("sender", addr.String(), from[i].LocalAddr().String())); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil
}
