"""Verilator builds, memory models and cocotb testbenches."""
