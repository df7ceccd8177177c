import java.io.*;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;

/** Prints the tokens of each line of the input, CLASS<TAB>TEXT; by reflection, so that an older javac compiles it. */
public class LuceneTokens {
  public static void main(String[] arguments) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    Class<?> term = Class.forName("org.apache.lucene.analysis.tokenattributes.CharTermAttribute");
    String line;
    while ((line = in.readLine()) != null) {
      String[] parts = line.split("\t", 2);
      Object analyzer = Class.forName(parts[0]).getConstructor().newInstance();
      Object stream = Class.forName("org.apache.lucene.analysis.Analyzer").getMethod("tokenStream", String.class, String.class).invoke(analyzer, "f", parts[1]);
      Class<?> kind = Class.forName("org.apache.lucene.analysis.TokenStream");
      Object value = Class.forName("org.apache.lucene.util.AttributeSource").getMethod("getAttribute", Class.class).invoke(stream, term);
      kind.getMethod("reset").invoke(stream);
      Method next = kind.getMethod("incrementToken");
      next.setAccessible(true);
      StringBuilder found = new StringBuilder();
      while ((Boolean) next.invoke(stream)) found.append(found.length() > 0 ? " " : "").append(value);
      out.println(found);
    }
  }
}
