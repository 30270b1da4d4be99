//go:build !linux && !darwin

package buildpack_test

func removeProgram() {}
