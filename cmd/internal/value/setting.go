package value

import (
	"fmt"
	"strings"
)

// Setting is a parameter and its value.
type Setting struct{ Key, Value string }

// ParseSetting reads KEY=VALUE. The value may be empty.
func ParseSetting(text string) (Setting, error) {
	key, v, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return Setting{}, fmt.Errorf("%q is not KEY=VALUE", text)
	}
	return Setting{Key: key, Value: v}, nil
}
