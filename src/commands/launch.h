// One training in several processes of this machine: `semiseg train ... --processes N`.
#pragma once

#include "commands/command.h"

namespace semiseg {

// Starts the same command N times, as torchrun would, passes on what asks it to stop, and ends when all have ended; those that
// are left after one has failed are given half a minute. Returns that one's exit code, which has said what is wrong; 8 where it
// was killed. Throws Error(kConfig).
int launch(const Arguments& arguments);

// A process that launch() has started is asked to stop (SIGTERM) when the starter is no more.
void end_with_launcher();

// What stands before an error's line: "semiseg: error: ", or for the starter's ears where this process was started by launch()
// and another one's failure is told, which speaks for itself.
const char* error_prefix(int exit_code);

}  // namespace semiseg
