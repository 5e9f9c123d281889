package image

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// utsNodename is utsns_entry.nodename.
const utsNodename protowire.Number = 1

// SetHostname gives the processes of the dump another host name. Only their own
// uts namespaces have one in the dump.
func (v *View) SetHostname(name string) error {
	all, err := Names(v.Dir())
	if err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for _, image := range all {
		if !strings.HasPrefix(image, "utsns-") {
			continue
		}
		err := v.EditFirst(image, TypeUTS, func(msg []byte) ([]byte, error) {
			out := make([]byte, 0, len(msg)+len(name))
			s := wire.Scan(msg)
			for s.Next() {
				if s.Is(utsNodename, wire.Bytes) {
					out = wire.AppendBytes(out, utsNodename, []byte(name))
				} else {
					out = append(out, s.Raw...)
				}
			}
			return out, s.Err
		})
		if err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	return nil
}
