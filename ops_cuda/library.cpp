// The parts of the interface that are the same on every machine: CPU build.
#include "lafite_ops.h"

int ls_abi(void) { return LS_ABI; }

const char* ls_error_string(int code) {
    return code == 0 ? "no error" : "an argument is out of range";
}
