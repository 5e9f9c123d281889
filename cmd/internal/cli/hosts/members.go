package hosts

import (
	"fmt"

	"github.com/snapctl/snapctl/runtime/api"
)

// evenMembers says what is wrong with an even number of members of the directory, if there is one.
func evenMembers(all []*api.Host) (notes []string) {
	members := 0
	for _, h := range all {
		if h.GetDirectory() {
			members++
		}
	}
	if members == 0 || members%2 != 0 {
		return nil
	}
	return []string{fmt.Sprintf(
		"%d hosts run the directory, which stands still when %d of them fail, as it would with %d: make them %d with `snapctl host init` on another host",
		members, members/2, members-1, members+1,
	)}
}
