package tcprepair

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// scales reads the bit fields of struct tcp_info that the unix package leaves out:
// tcpi_snd_wscale : 4, tcpi_rcv_wscale : 4, the byte after tcpi_options.
func scales(info *unix.TCPInfo) (send, receive uint8) {
	b := *(*uint8)(unsafe.Add(unsafe.Pointer(&info.Options), 1))
	return b & 0xf, b >> 4
}
