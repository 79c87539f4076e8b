import { Client, credentials } from "@grpc/grpc-js";

/** Whether a gRPC server answers at `host:port`; it hears no call, so it takes no note of this. */
export function speaksGrpc(address: string, deadlineMs: number): Promise<boolean> {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.enable_http_proxy": 0,
    "grpc.use_local_subchannel_pool": 1,
  });
  return new Promise((resolve) => {
    client.waitForReady(Date.now() + deadlineMs, (error) => {
      client.close();
      resolve(error === undefined || error === null);
    });
  });
}
