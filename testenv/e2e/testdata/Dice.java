import java.security.SecureRandom;
import java.util.Random;
import java.util.UUID;

/** Draws random numbers at the start and for each SIGUSR1. */
public class Dice {
    static final SecureRandom secure = new SecureRandom();
    static final Random random = new Random();

    static synchronized void draw() {
        System.out.printf("SecureRandom=%x UUID.randomUUID=%s Math.random=%s Random=%x%n",
            secure.nextLong(), UUID.randomUUID(), Math.random(), random.nextLong());
    }

    public static void main(String[] args) throws Exception {
        sun.misc.Signal.handle(new sun.misc.Signal("USR1"), s -> draw());
        draw();
        Thread.currentThread().join();
    }
}
