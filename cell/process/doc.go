// Package process is the cell.Runtime of plain processes of this machine: no isolation, no
// limits but the number of open files, nothing to install. For development, and for code
// that one trusts.
//
// Each container is a folder. A path of the container, "/home/vcap/app", is a folder below
// it; programs learn its name by cell.Pather ("{{path /home/vcap/app}}"). Each process runs
// under an init of its own (see package lifecycle), so that it goes on, with its output and its
// exit status, when this program ends; a Runtime made later over the same Config.Dir finds it.
//
// Linux and macOS; elsewhere New says that it is not supported.
package process
