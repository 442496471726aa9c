#include "programs/exec/failure.h"

struct un_error un_first_failure;
