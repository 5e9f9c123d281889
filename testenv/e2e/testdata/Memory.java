import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.CRC32;

/**
 * An app whose heap grows, shrinks, is collected and given back without a pause,
 * and that checks all that it reads of it. It answers a line on port 7000 with
 * "ok STEPS", or what was wrong.
 */
public class Memory {
	static final AtomicLong steps = new AtomicLong();
	static volatile String wrong;

	static void say(String text) {
		if (wrong == null)
			wrong = text;
	}

	static long sum(byte[] data) {
		CRC32 crc = new CRC32();
		crc.update(data);
		return crc.getValue();
	}

	static class Node {
		Node left, right;
		byte[] data;
		long sum;
	}

	static byte[] zeros(int n) {
		byte[] data = new byte[n];
		for (byte b : data)
			if (b != 0) {
				say("new memory of " + n + " bytes is not zero");
				break;
			}
		return data;
	}

	static Node tree(Random random, int depth) {
		if (depth == 0)
			return null;
		Node n = new Node();
		if (n.left != null || n.data != null || n.sum != 0)
			say("a new node is not zero");
		n.data = zeros(random.nextInt(300));
		random.nextBytes(n.data);
		n.sum = sum(n.data);
		n.left = tree(random, depth - 1);
		n.right = tree(random, depth - 1);
		return n;
	}

	static void check(Node n) {
		if (n == null)
			return;
		if (sum(n.data) != n.sum)
			say("a node's data is wrong");
		check(n.left);
		check(n.right);
	}

	static void work(int seed) {
		Random random = new Random(seed);
		Node[] trees = new Node[16];
		Map<String, Integer> map = new HashMap<>();
		List<ByteBuffer> direct = new ArrayList<>();
		byte[][] large = new byte[16][];
		while (wrong == null) {
			int i = random.nextInt(trees.length);
			check(trees[i]);
			trees[i] = tree(random, 4 + random.nextInt(6));

			i = random.nextInt(large.length);
			if (large[i] != null && (large[i][0] != 1 || large[i][large[i].length - 1] != (byte) large[i].length))
				say("an array of " + large[i].length + " is wrong");
			large[i] = zeros(1000 + random.nextInt(1 << random.nextInt(21)));
			large[i][0] = 1;
			large[i][large[i].length - 1] = (byte) large[i].length;

			ByteBuffer b = ByteBuffer.allocateDirect(1000 + random.nextInt(100000));
			for (int k = 0; k + 8 <= b.capacity(); k += 8)
				if (b.getLong(k) != 0) {
					say("new memory outside the heap is not zero");
					break;
				}
			for (int k = 0; k + 4 <= b.capacity(); k += 4)
				b.putInt(k, k);
			direct.add(b);
			b = direct.get(random.nextInt(direct.size()));
			for (int k = 0; k + 4 <= b.capacity(); k += 4)
				if (b.getInt(k) != k) {
					say("memory outside the heap is wrong");
					break;
				}
			if (direct.size() > 50)
				direct.subList(0, 30).clear();

			String key = "key " + random.nextInt(5000);
			Integer value = map.put(key, key.hashCode());
			if (value != null && value != key.hashCode())
				say(key + " is wrong");
			if (random.nextInt(500) == 0) {
				map.clear();
				trees = new Node[16];
				large = new byte[16][];
				System.gc();
			}
			steps.incrementAndGet();
		}
	}

	static void answer(Socket socket) {
		try (socket) {
			BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
			OutputStream out = socket.getOutputStream();
			while (in.readLine() != null)
				out.write((wrong == null ? "ok " + steps.get() + "\n" : "error: " + wrong + "\n").getBytes());
		} catch (Exception e) {
			System.err.println("Memory: " + e);
		}
	}

	public static void main(String[] args) throws Exception {
		ServerSocket server = new ServerSocket(7000);
		for (int i = 0; i < 3; i++) {
			int seed = i;
			Thread t = new Thread(() -> {
				try {
					work(seed);
				} catch (Throwable e) {
					say(e.toString());
				}
			});
			t.setDaemon(true);
			t.start();
		}
		while (true) {
			Socket socket = server.accept();
			new Thread(() -> answer(socket)).start();
		}
	}
}
