#include "tools/plait.h"

int main(int argc, char** argv) { return plait::RunPlait(argc, argv); }
