/// Runs all tests; works with Catch2 version 2 and 3, and links neither version's own main.
#define CATCH_CONFIG_RUNNER
#include "catch.hpp"

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
