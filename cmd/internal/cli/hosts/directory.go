package hosts

import (
	"net/url"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// directoryURLs reads the flag --directory. It returns none for the embedded one.
func directoryURLs(list []string) ([]string, error) {
	if len(list) == 1 && list[0] == embedded {
		return nil, nil
	}
	if len(list) == 0 {
		return nil, session.Usagef("--directory is empty: it is embedded, or https URLs")
	}
	for _, text := range list {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" {
			return nil, session.Usagef("--directory %q is neither embedded nor a URL like https://etcd-1:2379", text)
		}
	}
	return list, nil
}
