// Package folder is what the cells have in common whose containers are folders of this machine
// with processes under inits: cell/process and cell/sandbox. It makes, finds, fills and removes the
// folders, unpacks and copies layers, follows processes and adopts them. How a process is started,
// and what the paths of a container are called inside, is the cell's own (see [Kind]).
package folder
