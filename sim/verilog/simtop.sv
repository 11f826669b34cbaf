// Test bench around the design: clock and reset, a register access port, the memory, counters.
//
// The host (Python under cocotb, or a C++ loop) sees only the ports. It asks for one register access at a time by
// toggling host_request, and is answered by a toggle of host_acknowledge; the access marked host_start starts the
// cycle counter with its last handshake, and irq (or the limit) stops it and raises host_done. So between the start and
// the end of a run the host has nothing to do.
//
// The macro ROWMESH_TOP is the name of the design's top module.
//
// A toggle of host_reset resets the design and the memory model for host_reset_cycles. The memory's faults count the
// bursts of a run (see axi_memory.sv).
//
// Plusargs: +memory=FILE (see memory.cpp), +read_latency=N, +write_latency=N, +bytes_per_cycle=N, and +external_memory,
// which gives the AXI4 ports to the host.
//
// The host samples its AXI ports at the rise of axi_clock, one time unit before the clock's edge, when all outputs of
// the design for that edge are settled; what it then drives reaches the design after the edge.

`timescale 1ns / 1ns
`default_nettype none

module simtop #(
    parameter int DATA_WIDTH = 64,
    parameter int ADDR_WIDTH = 32
) (
`ifdef ROWMESH_EXTERNAL_CLOCK
    input  wire                    clk,
`endif
    input  wire                    host_reset,
    input  wire [7:0]              host_reset_cycles,
    input  wire [31:0]             host_fail_read,
    input  wire [31:0]             host_fail_write,
    input  wire [31:0]             host_hold_read,
    input  wire [31:0]             host_hold_write,
    input  wire [31:0]             host_extra_read,
    input  wire [31:0]             host_extra_write,
    output reg                     host_in_reset,
    input  wire                    host_request,
    input  wire                    host_write,
    input  wire                    host_start,
    input  wire [11:0]             host_address,
    input  wire [31:0]             host_wdata,
    output reg                     host_acknowledge,
    output reg  [31:0]             host_rdata,
    output reg  [1:0]              host_response,
    input  wire [63:0]             host_limit,
    output reg                     host_running,
    output reg                     host_done,
    output reg                     host_timed_out,
    output reg  [63:0]             host_cycles,
    output wire                    host_irq,

    output reg  [63:0]             traffic_read_bursts,
    output reg  [63:0]             traffic_read_beats,
    output reg  [63:0]             traffic_write_bursts,
    output reg  [63:0]             traffic_write_beats,

    output reg                     axi_clock,
    output wire                    m_axi_awid,
    output wire [ADDR_WIDTH-1:0]   m_axi_awaddr,
    output wire [7:0]              m_axi_awlen,
    output wire [2:0]              m_axi_awsize,
    output wire [1:0]              m_axi_awburst,
    output wire                    m_axi_awlock,
    output wire [3:0]              m_axi_awcache,
    output wire [2:0]              m_axi_awprot,
    output wire                    m_axi_awvalid,
    input  wire                    m_axi_awready,
    output wire [DATA_WIDTH-1:0]   m_axi_wdata,
    output wire [DATA_WIDTH/8-1:0] m_axi_wstrb,
    output wire                    m_axi_wlast,
    output wire                    m_axi_wvalid,
    input  wire                    m_axi_wready,
    input  wire                    m_axi_bid,
    input  wire [1:0]              m_axi_bresp,
    input  wire                    m_axi_bvalid,
    output wire                    m_axi_bready,
    output wire                    m_axi_arid,
    output wire [ADDR_WIDTH-1:0]   m_axi_araddr,
    output wire [7:0]              m_axi_arlen,
    output wire [2:0]              m_axi_arsize,
    output wire [1:0]              m_axi_arburst,
    output wire                    m_axi_arlock,
    output wire [3:0]              m_axi_arcache,
    output wire [2:0]              m_axi_arprot,
    output wire                    m_axi_arvalid,
    input  wire                    m_axi_arready,
    input  wire                    m_axi_rid,
    input  wire [DATA_WIDTH-1:0]   m_axi_rdata,
    input  wire [1:0]              m_axi_rresp,
    input  wire                    m_axi_rlast,
    input  wire                    m_axi_rvalid,
    output wire                    m_axi_rready
);

  import "DPI-C" function void rowmesh_memory_open(input string path);
  import "DPI-C" function void rowmesh_fatal(input string message);

  localparam bit [7:0] RESET_CYCLES = 16;

  // Options ----------------------------------------------------------------------------------------------------
  string memory_path;
  bit external_memory;
  bit [31:0] read_latency, write_latency, bytes_per_cycle;

  initial begin
    external_memory = $test$plusargs("external_memory") != 0;
    if (!$value$plusargs("read_latency=%d", read_latency)) read_latency = 100;
    if (!$value$plusargs("write_latency=%d", write_latency)) write_latency = 20;
    if (!$value$plusargs("bytes_per_cycle=%d", bytes_per_cycle)) bytes_per_cycle = DATA_WIDTH / 8;
    if (read_latency < 2 || write_latency < 2) rowmesh_fatal("memory latencies must be at least 2");
    if (bytes_per_cycle < 1 || bytes_per_cycle > DATA_WIDTH / 8)
      rowmesh_fatal($sformatf("bytes_per_cycle must be from 1 to %0d, not %0d", DATA_WIDTH / 8, bytes_per_cycle));
    if ($value$plusargs("memory=%s", memory_path)) rowmesh_memory_open(memory_path);
  end

  // Clock and reset --------------------------------------------------------------------------------------------
`ifndef ROWMESH_EXTERNAL_CLOCK
  reg clk = 0;
  always #5 clk = ~clk;

  initial begin
    axi_clock = 0;
    if ($test$plusargs("external_memory") != 0) begin
      #4;
      forever begin
        axi_clock = 1;
        #1 axi_clock = 0;
        #9;
      end
    end
  end
`else
  assign axi_clock = 0;
`endif

  bit [7:0] reset_count = RESET_CYCLES;
  bit reset_seen;
  reg rst = 1;
  always @(posedge clk) begin
    if (host_reset != reset_seen) begin
      reset_seen  <= host_reset;
      reset_count <= host_reset_cycles;
    end else if (reset_count != 0) reset_count <= reset_count - 1;
    rst <= reset_count != 0;
    host_in_reset <= rst;
  end
  initial host_in_reset = 1;

  // Register accesses ------------------------------------------------------------------------------------------
  reg awvalid = 0, wvalid = 0, arvalid = 0, busy = 0;
  wire awready, wready, arready, bvalid, rvalid;
  wire [1:0] bresp, rresp;
  wire [31:0] rdata;

  initial host_acknowledge = 0;
  wire aw_ends = !awvalid || awready;
  wire w_ends = !wvalid || wready;
  wire write_handshake = (awvalid || wvalid) && aw_ends && w_ends;

  always @(posedge clk) begin
    if (awready) awvalid <= 0;
    if (wready) wvalid <= 0;
    if (arready) arvalid <= 0;
    if (!busy && !rst && host_request != host_acknowledge) begin
      busy    <= 1;
      awvalid <= host_write;
      wvalid  <= host_write;
      arvalid <= !host_write;
    end
    if (busy && (bvalid || rvalid)) begin
      busy             <= 0;
      host_acknowledge <= host_request;
      host_response    <= bvalid ? bresp : rresp;
      host_rdata       <= rdata;
    end
    if (rst) begin
      awvalid <= 0;
      wvalid <= 0;
      arvalid <= 0;
      busy <= 0;
      host_acknowledge <= host_request;
    end
  end

  // Cycles from the start write's handshake to the first edge that sees irq ------------------------------------
  always @(posedge clk) begin
    if (host_running) begin
      host_cycles <= host_cycles + 1;
      if (host_irq || host_cycles + 1 == host_limit) begin
        host_running   <= 0;
        host_done      <= 1;
        host_timed_out <= !host_irq;
      end
    end else if (write_handshake && host_start) begin
      host_running   <= 1;
      host_done      <= 0;
      host_timed_out <= 0;
      host_cycles    <= 0;
    end
    if (rst) begin
      host_running   <= 0;
      host_done      <= 0;
      host_timed_out <= 0;
      host_cycles    <= 0;
    end
  end

  // Handshakes on the memory's side ----------------------------------------------------------------------------
  always @(posedge clk) begin
    if (m_axi_arvalid && arready_d) traffic_read_bursts <= traffic_read_bursts + 1;
    if (rvalid_d && m_axi_rready) traffic_read_beats <= traffic_read_beats + 1;
    if (m_axi_awvalid && awready_d) traffic_write_bursts <= traffic_write_bursts + 1;
    if (m_axi_wvalid && wready_d) traffic_write_beats <= traffic_write_beats + 1;
    if (rst) begin
      traffic_read_bursts  <= 0;
      traffic_read_beats   <= 0;
      traffic_write_bursts <= 0;
      traffic_write_beats  <= 0;
    end
  end

  // Memory: the model, or the host's registered ports ----------------------------------------------------------
  wire memory_awready, memory_wready, memory_bid, memory_bvalid;
  wire memory_arready, memory_rid, memory_rlast, memory_rvalid;
  wire [1:0] memory_bresp, memory_rresp;
  wire [DATA_WIDTH-1:0] memory_rdata;

  reg external_awready, external_wready, external_bid, external_bvalid;
  reg external_arready, external_rid, external_rlast, external_rvalid;
  reg [1:0] external_bresp, external_rresp;
  reg [DATA_WIDTH-1:0] external_rdata;

  always @(posedge clk) begin
    if (external_memory) begin
      external_awready <= m_axi_awready;
      external_wready  <= m_axi_wready;
      external_bid     <= m_axi_bid;
      external_bvalid  <= m_axi_bvalid;
      external_bresp   <= m_axi_bresp;
      external_arready <= m_axi_arready;
      external_rid     <= m_axi_rid;
      external_rlast   <= m_axi_rlast;
      external_rvalid  <= m_axi_rvalid;
      external_rresp   <= m_axi_rresp;
      external_rdata   <= m_axi_rdata;
    end
  end

  wire awready_d = external_memory ? external_awready : memory_awready;
  wire wready_d = external_memory ? external_wready : memory_wready;
  wire bid_d = external_memory ? external_bid : memory_bid;
  wire bvalid_d = external_memory ? external_bvalid : memory_bvalid;
  wire [1:0] bresp_d = external_memory ? external_bresp : memory_bresp;
  wire arready_d = external_memory ? external_arready : memory_arready;
  wire rid_d = external_memory ? external_rid : memory_rid;
  wire rlast_d = external_memory ? external_rlast : memory_rlast;
  wire rvalid_d = external_memory ? external_rvalid : memory_rvalid;
  wire [1:0] rresp_d = external_memory ? external_rresp : memory_rresp;
  wire [DATA_WIDTH-1:0] rdata_d = external_memory ? external_rdata : memory_rdata;

  axi_memory #(
      .DATA_WIDTH(DATA_WIDTH),
      .ADDR_WIDTH(ADDR_WIDTH)
  ) memory (
      .clk(clk),
      .rst(rst || external_memory),
      .read_latency(read_latency),
      .write_latency(write_latency),
      .bytes_per_cycle(bytes_per_cycle),
      .restart(write_handshake && host_start),
      .fail_read(host_fail_read),
      .fail_write(host_fail_write),
      .hold_read(host_hold_read),
      .hold_write(host_hold_write),
      .extra_read(host_extra_read),
      .extra_write(host_extra_write),
      .awid(m_axi_awid),
      .awaddr(m_axi_awaddr),
      .awlen(m_axi_awlen),
      .awsize(m_axi_awsize),
      .awburst(m_axi_awburst),
      .awvalid(m_axi_awvalid),
      .awready(memory_awready),
      .wdata(m_axi_wdata),
      .wstrb(m_axi_wstrb),
      .wlast(m_axi_wlast),
      .wvalid(m_axi_wvalid),
      .wready(memory_wready),
      .bid(memory_bid),
      .bresp(memory_bresp),
      .bvalid(memory_bvalid),
      .bready(m_axi_bready),
      .arid(m_axi_arid),
      .araddr(m_axi_araddr),
      .arlen(m_axi_arlen),
      .arsize(m_axi_arsize),
      .arburst(m_axi_arburst),
      .arvalid(m_axi_arvalid),
      .arready(memory_arready),
      .rid(memory_rid),
      .rdata(memory_rdata),
      .rresp(memory_rresp),
      .rlast(memory_rlast),
      .rvalid(memory_rvalid),
      .rready(m_axi_rready)
  );

  // Design -----------------------------------------------------------------------------------------------------
  `ROWMESH_TOP dut (
      .clk(clk),
      .rst(rst),
      .irq(host_irq),
      .m_axi_awid(m_axi_awid),
      .m_axi_awaddr(m_axi_awaddr),
      .m_axi_awlen(m_axi_awlen),
      .m_axi_awsize(m_axi_awsize),
      .m_axi_awburst(m_axi_awburst),
      .m_axi_awlock(m_axi_awlock),
      .m_axi_awcache(m_axi_awcache),
      .m_axi_awprot(m_axi_awprot),
      .m_axi_awvalid(m_axi_awvalid),
      .m_axi_awready(awready_d),
      .m_axi_wdata(m_axi_wdata),
      .m_axi_wstrb(m_axi_wstrb),
      .m_axi_wlast(m_axi_wlast),
      .m_axi_wvalid(m_axi_wvalid),
      .m_axi_wready(wready_d),
      .m_axi_bid(bid_d),
      .m_axi_bresp(bresp_d),
      .m_axi_bvalid(bvalid_d),
      .m_axi_bready(m_axi_bready),
      .m_axi_arid(m_axi_arid),
      .m_axi_araddr(m_axi_araddr),
      .m_axi_arlen(m_axi_arlen),
      .m_axi_arsize(m_axi_arsize),
      .m_axi_arburst(m_axi_arburst),
      .m_axi_arlock(m_axi_arlock),
      .m_axi_arcache(m_axi_arcache),
      .m_axi_arprot(m_axi_arprot),
      .m_axi_arvalid(m_axi_arvalid),
      .m_axi_arready(arready_d),
      .m_axi_rid(rid_d),
      .m_axi_rdata(rdata_d),
      .m_axi_rresp(rresp_d),
      .m_axi_rlast(rlast_d),
      .m_axi_rvalid(rvalid_d),
      .m_axi_rready(m_axi_rready),
      .s_axil_awaddr(host_address),
      .s_axil_awprot(3'b000),
      .s_axil_awvalid(awvalid),
      .s_axil_awready(awready),
      .s_axil_wdata(host_wdata),
      .s_axil_wstrb(4'b1111),
      .s_axil_wvalid(wvalid),
      .s_axil_wready(wready),
      .s_axil_bresp(bresp),
      .s_axil_bvalid(bvalid),
      .s_axil_bready(busy),
      .s_axil_araddr(host_address),
      .s_axil_arprot(3'b000),
      .s_axil_arvalid(arvalid),
      .s_axil_arready(arready),
      .s_axil_rdata(rdata),
      .s_axil_rresp(rresp),
      .s_axil_rvalid(rvalid),
      .s_axil_rready(busy)
  );

endmodule

`default_nettype wire
