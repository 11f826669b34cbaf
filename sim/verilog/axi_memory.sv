// Deterministic AXI4 memory: the timing model of docs/simulation.md, the contents in memory.cpp.
//
// Every cycle count below is between clock edges at which a handshake happens.
//   reads    first beat `read_latency` edges after its address, at the earliest; one beat an edge; in order
//   writes   data from one edge after their address; one beat an edge; in order
//   replies  `write_latency` edges after the last data beat, at the earliest; one an edge; in order
// No output depends combinationally on an input.

`default_nettype none

module axi_memory #(
    parameter int DATA_WIDTH  = 64,
    parameter int ADDR_WIDTH  = 32,
    parameter int OUTSTANDING = 256  // bursts in flight in each direction; a power of two
) (
    input  wire                    clk,
    input  wire                    rst,

    // Timing, constant during a run
    input  wire [31:0]             read_latency,     // at least 2
    input  wire [31:0]             write_latency,    // at least 2
    input  wire [31:0]             bytes_per_cycle,  // in each direction; at most DATA_WIDTH / 8

    // Faults: numbers of bursts, from 1, since the last restart; 0: none
    input  wire                    restart,
    input  wire [31:0]             fail_read,    // answered with an error
    input  wire [31:0]             fail_write,
    input  wire [31:0]             hold_read,    // not answered, nor any behind it, as long as the number stands here
    input  wire [31:0]             hold_write,
    input  wire [31:0]             extra_read,   // the last beat comes twice
    input  wire [31:0]             extra_write,  // the response comes twice

    input  wire                    awid,
    input  wire [ADDR_WIDTH-1:0]   awaddr,
    input  wire [7:0]              awlen,
    input  wire [2:0]              awsize,
    input  wire [1:0]              awburst,
    input  wire                    awvalid,
    output wire                    awready,

    input  wire [DATA_WIDTH-1:0]   wdata,
    input  wire [DATA_WIDTH/8-1:0] wstrb,
    input  wire                    wlast,
    input  wire                    wvalid,
    output wire                    wready,

    output reg                     bid,
    output reg  [1:0]              bresp,
    output reg                     bvalid,
    input  wire                    bready,

    input  wire                    arid,
    input  wire [ADDR_WIDTH-1:0]   araddr,
    input  wire [7:0]              arlen,
    input  wire [2:0]              arsize,
    input  wire [1:0]              arburst,
    input  wire                    arvalid,
    output wire                    arready,

    output reg                     rid,
    output reg  [DATA_WIDTH-1:0]   rdata,
    output reg  [1:0]              rresp,
    output reg                     rlast,
    output reg                     rvalid,
    input  wire                    rready
);

  import "DPI-C" function int rowmesh_memory_read(input longint unsigned address, input int bytes,
                                                  output bit [DATA_WIDTH-1:0] data);
  import "DPI-C" function int rowmesh_memory_write(input longint unsigned address, input int bytes,
                                                   input bit [DATA_WIDTH-1:0] data,
                                                   input bit [DATA_WIDTH/8-1:0] strobe);

  import "DPI-C" function void rowmesh_fatal(input string message);

  localparam int BYTES = DATA_WIDTH / 8;
  localparam int POINTER = $clog2(OUTSTANDING) + 1;

  localparam [1:0] OKAY = 2'b00, SLVERR = 2'b10, DECERR = 2'b11;
  localparam [1:0] FIXED = 2'b00, INCR = 2'b01;

  typedef struct packed {
    bit                  id;
    bit [ADDR_WIDTH-1:0] address;
    bit [7:0]            length;
    bit [2:0]            size;
    bit [1:0]            burst;
    bit [63:0]           due;  // reads: the edge that may present the first beat
    bit [31:0]           number;
  } burst_t;

  typedef struct packed {
    bit        id;
    bit [1:0]  response;
    bit [63:0] due;
    bit [31:0] number;
  } reply_t;

  function automatic [63:0] beat_address(input burst_t burst, input [7:0] beat);
    bit [63:0] start;
    start = {{(64 - ADDR_WIDTH) {1'b0}}, burst.address};
    if (burst.burst == FIXED || beat == 0) return start;
    return (start & ~((64'd1 << burst.size) - 64'd1)) + ({56'd0, beat} << burst.size);
  endfunction

  // A byte budget in each direction: a beat costs the full width, and an idle budget saves less than one cycle's bytes
  // beyond one beat.
  function automatic [31:0] next_credit(input [31:0] credit, input spent);
    bit [31:0] sum, most;
    sum  = credit + bytes_per_cycle - (spent ? BYTES : 0);
    most = BYTES + bytes_per_cycle - 1;
    return sum < most ? sum : most;
  endfunction

  task automatic check_burst(input string channel, input [ADDR_WIDTH-1:0] address, input [7:0] length,
                             input [2:0] size, input [1:0] burst);
    bit [31:0] first, total;
    first = {20'd0, address[11:0]} & ~((32'd1 << size) - 32'd1);
    total = ({24'd0, length} + 32'd1) << size;
    if (burst != INCR && burst != FIXED)
      rowmesh_fatal($sformatf("%s: burst type %0d is not supported: FIXED or INCR", channel, burst));
    if ((32'd1 << size) > BYTES)
      rowmesh_fatal($sformatf("%s: a beat of %0d bytes is wider than the bus (%0d)", channel, 32'd1 << size, BYTES));
    if (burst == INCR && first + total > 4096)
      rowmesh_fatal($sformatf("%s: burst at 0x%0h of %0d bytes crosses a 4 KiB boundary", channel, address, total));
  endtask

  bit [63:0] now;
  always @(posedge clk) now <= now + 1;

  // Reads ------------------------------------------------------------------------------------------------------
  burst_t             reads         [OUTSTANDING];
  bit [POINTER-1:0]   read_head;
  bit [POINTER-1:0]   read_tail;
  bit [7:0]           read_beat;
  bit [31:0]          read_number;
  bit                 read_again;  // the last beat has come once
  bit [31:0]          read_credit;

  burst_t read_burst;
  assign read_burst = reads[read_head[POINTER-2:0]];
  wire read_take = arvalid && arready;
  wire read_held = hold_read != 0 && read_burst.number >= hold_read;
  wire read_load = read_head != read_tail && now >= read_burst.due && !read_held && (!rvalid || rready) &&
      read_credit >= BYTES;
  wire read_twice = read_burst.number == extra_read && !read_again;

  assign arready = !rst && (read_tail - read_head) != POINTER'(OUTSTANDING);

  always @(posedge clk) begin
    read_credit <= next_credit(read_credit, read_load);
    if (read_take) begin
      check_burst("AR", araddr, arlen, arsize, arburst);
      reads[read_tail[POINTER-2:0]] <= '{
          id: arid,
          address: araddr,
          length: arlen,
          size: arsize,
          burst: arburst,
          due: now + {32'd0, read_latency} - 1,
          number: read_number + 1
      };
      read_tail   <= read_tail + 1;
      read_number <= read_number + 1;
    end
    if (read_load) begin
      bit [DATA_WIDTH-1:0] word;
      int outside;
      outside = rowmesh_memory_read(beat_address(read_burst, read_beat), BYTES, word);
      rid <= read_burst.id;
      rdata <= word;
      rresp <= outside != 0 ? DECERR : read_burst.number == fail_read ? SLVERR : OKAY;
      rlast <= read_beat == read_burst.length;
      if (read_beat == read_burst.length) begin
        read_again <= read_twice;
        if (!read_twice) begin
          read_head <= read_head + 1;
          read_beat <= 0;
        end
      end else begin
        read_beat <= read_beat + 1;
      end
    end
    if (read_load || rready) rvalid <= read_load;
    if (rst) begin
      read_head   <= 0;
      read_tail   <= 0;
      read_beat   <= 0;
      read_number <= 0;
      read_again  <= 0;
      read_credit <= BYTES;
      rvalid      <= 0;
    end
    if (restart) read_number <= 0;
  end

  // Writes -----------------------------------------------------------------------------------------------------
  burst_t             writes        [OUTSTANDING];
  reply_t             replies       [OUTSTANDING];
  bit [POINTER-1:0]   write_head;   // next burst to receive data
  bit [POINTER-1:0]   write_tail;
  bit [POINTER-1:0]   reply_head;
  bit [7:0]           write_beat;
  bit [1:0]           write_response;
  bit [31:0]          write_number;
  bit                 write_again;  // the response has come once
  bit [31:0]          write_credit;

  burst_t write_burst;
  assign write_burst = writes[write_head[POINTER-2:0]];
  reply_t reply;
  assign reply = replies[reply_head[POINTER-2:0]];
  wire write_take = awvalid && awready;
  wire write_data = wvalid && wready;
  wire write_last = write_beat == write_burst.length;
  wire reply_held = hold_write != 0 && reply.number >= hold_write;
  wire reply_load = reply_head != write_head && now >= reply.due && !reply_held && (!bvalid || bready);
  wire reply_twice = reply.number == extra_write && !write_again;

  assign awready = !rst && (write_tail - reply_head) != POINTER'(OUTSTANDING);
  assign wready  = write_head != write_tail && write_credit >= BYTES;

  always @(posedge clk) begin
    write_credit <= next_credit(write_credit, write_data);
    if (write_take) begin
      check_burst("AW", awaddr, awlen, awsize, awburst);
      writes[write_tail[POINTER-2:0]] <= '{
          id: awid,
          address: awaddr,
          length: awlen,
          size: awsize,
          burst: awburst,
          due: 0,
          number: write_number + 1
      };
      write_tail   <= write_tail + 1;
      write_number <= write_number + 1;
    end
    if (write_data) begin
      bit [1:0] response;
      response = write_beat == 0 ? OKAY : write_response;
      if (write_burst.number == fail_write) response = SLVERR;
      else if (rowmesh_memory_write(beat_address(write_burst, write_beat), BYTES, wdata, wstrb) != 0)
        response = DECERR;
      write_response <= response;
      if (wlast != write_last)
        rowmesh_fatal($sformatf("W: wlast is %0d in beat %0d of a burst of %0d", wlast, write_beat, {1'b0, write_burst.length} + 9'd1));
      if (write_last) begin
        replies[write_head[POINTER-2:0]] <= '{
            id: write_burst.id,
            response: response,
            due: now + {32'd0, write_latency} - 1,
            number: write_burst.number
        };
        write_head <= write_head + 1;
        write_beat <= 0;
      end else begin
        write_beat <= write_beat + 1;
      end
    end
    if (reply_load) begin
      bid         <= reply.id;
      bresp       <= reply.response;
      write_again <= reply_twice;
      if (!reply_twice) reply_head <= reply_head + 1;
    end
    if (reply_load || bready) bvalid <= reply_load;
    if (rst) begin
      write_head   <= 0;
      write_tail   <= 0;
      reply_head   <= 0;
      write_beat   <= 0;
      write_number <= 0;
      write_again  <= 0;
      write_credit <= BYTES;
      bvalid       <= 0;
    end
    if (restart) write_number <= 0;
  end

  bit quiet;
  initial quiet = 1;
  always @(posedge clk) quiet <= rst;

  // Nothing is valid in the first cycle after a reset (AXI4 A3.1.2).
  reset_valid :
  assert property (@(posedge clk) !rst && quiet |-> !awvalid && !wvalid && !arvalid);

  // A valid channel keeps its payload until it is ready (AXI4 A3.2.1).
  aw_stable :
  assert property (@(posedge clk) disable iff (rst || quiet)
      awvalid && !awready |=> awvalid && $stable({awid, awaddr, awlen, awsize, awburst}));
  w_stable :
  assert property (@(posedge clk) disable iff (rst || quiet)
      wvalid && !wready |=> wvalid && $stable({wdata, wstrb, wlast}));
  ar_stable :
  assert property (@(posedge clk) disable iff (rst || quiet)
      arvalid && !arready |=> arvalid && $stable({arid, araddr, arlen, arsize, arburst}));

endmodule

`default_nettype wire
