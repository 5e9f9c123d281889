package value

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseSize reads a size in bytes: a number with an optional K, M, G or T, which
// are powers of 1024; "MB" and "MiB" mean the same as "M".
func ParseSize(text string) (int64, error) {
	wrong := fmt.Errorf("%q is not a size such as 512M or 1.5G", text)
	number := strings.TrimRight(text, "KMGTBikmgtb")
	unit := strings.ToUpper(text[len(number):])
	shift, ok := map[string]uint{
		"": 0, "B": 0, "K": 10, "KB": 10, "KIB": 10, "M": 20, "MB": 20, "MIB": 20,
		"G": 30, "GB": 30, "GIB": 30, "T": 40, "TB": 40, "TIB": 40,
	}[unit]
	if !ok || strings.Trim(number, "0123456789.") != "" {
		return 0, wrong
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, wrong
	}
	bytes := n * float64(int64(1)<<shift)
	if bytes < 1 || bytes >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is out of range", text)
	}
	return int64(bytes), nil
}

// ParseCPUs reads a number of processors, which may be a fraction.
func ParseCPUs(text string) (float64, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0) || n > 1<<16 { // not n <= 0: NaN
		return 0, fmt.Errorf("%q is not a number of processors such as 1.5", text)
	}
	return n, nil
}

// ParseCount reads a number of things, at least one.
func ParseCount(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a number above 0", text)
	}
	return n, nil
}
