package gateway

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxPorts is how many published ports of one endpoint other hosts are told of.
const MaxPorts = 64

// Port is a port that leads to an endpoint, at every address of every host.
type Port struct {
	Proto    string `json:"protocol"`  // tcp or udp
	HostPort uint16 `json:"host_port"` // of the hosts
	Port     uint16 `json:"port"`      // of the endpoint
}

// String returns "8080:80/tcp".
func (p Port) String() string { return fmt.Sprintf("%d:%d/%s", p.HostPort, p.Port, p.Proto) }

// FormatPorts is how the directory has the ports of an endpoint, and ParsePorts reads it:
// "8080:80/tcp 5353:53/udp", in an order that does not depend on that of the list. Ports beyond
// MaxPorts are left out.
func FormatPorts(list []Port) string {
	var words []string
	for _, p := range list {
		words = append(words, p.String())
	}
	slices.Sort(words)
	words = slices.Compact(words)
	return strings.Join(words[:min(len(words), MaxPorts)], " ")
}

// ParsePorts reads what FormatPorts has made, on a host of this or another version.
func ParsePorts(text string) (list []Port, err error) {
	for word := range strings.FieldsSeq(text) {
		numbers, proto, _ := strings.Cut(word, "/")
		host, inside, ok := strings.Cut(numbers, ":")
		h, err1 := strconv.ParseUint(host, 10, 16)
		i, err2 := strconv.ParseUint(inside, 10, 16)
		if !ok || err1 != nil || err2 != nil || h == 0 || i == 0 || proto != "tcp" && proto != "udp" || len(list) == MaxPorts {
			return nil, fmt.Errorf("published ports %.200q: not a list of up to %d like 8080:80/tcp", text, MaxPorts)
		}
		list = append(list, Port{Proto: proto, HostPort: uint16(h), Port: uint16(i)})
	}
	return list, nil
}
