// The yardstick of the benchmark: the wrapper's clock in a C++ loop, with the same job that cocotb runs.
//
// Plusargs, beside the wrapper's: +writes=FILE, lines "offset value start" in decimal, and +limit=CYCLES.
// Prints one line of JSON: cycles, seconds, timed_out.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "Vtop.h"
#include "verilated.h"

namespace {

std::string plusarg(int argc, char **argv, const std::string &name) {
    const std::string prefix = "+" + name + "=";
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], prefix.c_str(), prefix.size()) == 0) return argv[i] + prefix.size();
    }
    std::fprintf(stderr, "missing %s\n", prefix.c_str());
    std::exit(2);
}

}  // namespace

int main(int argc, char **argv) {
    const auto context = std::make_unique<VerilatedContext>();
    context->commandArgs(argc, argv);
    const auto top = std::make_unique<Vtop>(context.get(), "");

    const auto cycle = [&] {
        top->clk = 1;
        top->eval();
        context->timeInc(5);
        top->clk = 0;
        top->eval();
        context->timeInc(5);
    };

    top->clk = 0;
    top->host_reset = 0;
    top->host_request = 0;
    top->host_limit = std::strtoull(plusarg(argc, argv, "limit").c_str(), nullptr, 10);
    top->eval();
    while (top->host_in_reset) cycle();

    std::FILE *const writes = std::fopen(plusarg(argc, argv, "writes").c_str(), "r");
    if (writes == nullptr) return 2;
    unsigned offset, value, start;
    auto begin = std::chrono::steady_clock::now();
    while (std::fscanf(writes, "%u %u %u", &offset, &value, &start) == 3) {
        top->host_write = 1;
        top->host_start = start;
        top->host_address = offset;
        top->host_wdata = value;
        top->host_request = !top->host_request;
        begin = std::chrono::steady_clock::now();
        while (top->host_acknowledge != top->host_request) cycle();
    }
    std::fclose(writes);

    while (!top->host_done && !context->gotFinish()) cycle();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("{\"cycles\": %llu, \"seconds\": %.6f, \"timed_out\": %s}\n",
                static_cast<unsigned long long>(top->host_cycles), seconds.count(),
                top->host_timed_out ? "true" : "false");
    top->final();
    return 0;
}
