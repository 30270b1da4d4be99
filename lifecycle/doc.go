// Package lifecycle is the program that runs inside each container.
//
// It is not a separate binary: it is the host program (whatever imports this package),
// copied once under the name "dewpoint-lifecycle" and run again. Which part of it runs is
// chosen by argv[0], its role:
//
//   - check says that the host program can be used (see [Prepare]);
//   - init starts one process and owns its output and exit status, so that both outlive
//     whoever asked for it (see [OpenOutput], [InitState], [SignalInit]);
//   - keeper is PID 1 of a container in which processes come and go, and starts their inits (see [Keeper]);
//   - builder turns an app's source into a droplet with buildpacks;
//   - launcher runs a droplet's start command, and shell an interactive shell beside it;
//   - entrypoint runs what a container image is made to run, or a command in its place.
//
// Other packages add roles by calling [Run] from an init function. docs/lifecycle.md tells
// authors of host programs what that asks of their own init functions.
//
// The roles are programs: they read the environment, write to standard output and exit.
// The functions that start and watch them do none of that.
package lifecycle
