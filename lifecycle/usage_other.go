//go:build !linux

package lifecycle

import "errors"

func usage(int) (Usage, error)     { return Usage{}, errors.ErrUnsupported }
func listening(int) ([]int, error) { return nil, errors.ErrUnsupported }
