// Package heal brings every object to where the cluster map puts it, in as many copies as its bucket is to have, and
// removes copies from where they no longer belong.
//
// Each target looks after what lies on its own disks. After a change of the set of targets, or of a bucket's redundancy,
// it makes a pass over its index: it asks the others which versions they have, gives them what they lack and, where it
// holds a copy that is not its own to keep, removes it once all who are to have it confirm that they do: twice, with a
// period of grace in between, and with a line in an audit log before. Whatever is unsure is kept. What one pass can't
// do, the next one does; nothing of a pass is needed to begin another.
//
// What to do with a key is one pure function, Decide. The rest of the package is how answers are gathered for it and
// how its decisions are carried out, through small interfaces that tests and simulations replace.
package heal
