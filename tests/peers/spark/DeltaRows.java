import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.DataFrameReader;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Rows of Delta tables as Spark sees them. Arguments, three for each table: TABLE, VERSION (a number
 * or "latest"), COLUMN,COLUMN... Prints one line per table, a JSON array of rows, each the array of
 * its columns. TABLE is a folder or an s3:// URL; of S3 the usual AWS_ variables tell the server and
 * the keys. Values as delta_rows.py gives them: bytes in hexadecimal, times in microseconds since
 * 1970.
 */
public class DeltaRows {
    public static void main(String[] arguments) throws Exception {
        SparkSession spark = SparkSession.builder()
            .master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.sql.datetime.java8API.enabled", "true")
            .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
            .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
            .getOrCreate();
        String server = System.getenv("AWS_ENDPOINT_URL");
        if (server != null) {
            org.apache.hadoop.conf.Configuration hadoop = spark.sparkContext().hadoopConfiguration();
            hadoop.set("fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem");
            hadoop.set("fs.s3a.endpoint", server);
            hadoop.set("fs.s3a.endpoint.region", System.getenv("AWS_REGION"));
            hadoop.set("fs.s3a.path.style.access", "true");
            hadoop.set("fs.s3a.access.key", System.getenv("AWS_ACCESS_KEY_ID"));
            hadoop.set("fs.s3a.secret.key", System.getenv("AWS_SECRET_ACCESS_KEY"));
        }
        ObjectMapper json = new ObjectMapper();
        boolean script = arguments[0].equals("script");
        for (int i = 1; script && i < arguments.length; i += 2) {
            for (String line : Files.readString(Path.of(arguments[i])).split("\n")) {
                spark.sql(line);
            }
            System.out.println(json.writeValueAsString(rows(spark.sql(arguments[i + 1]))));
        }
        for (int i = script ? arguments.length : 0; i < arguments.length; i += 3) {
            DataFrameReader reader = spark.read().format("delta");
            if (!arguments[i + 1].equals("latest")) {
                reader.option("versionAsOf", arguments[i + 1]);
            }
            String[] columns = arguments[i + 2].split(",");
            Dataset<Row> rows = reader.load(arguments[i]).selectExpr(columns);
            System.out.println(json.writeValueAsString(rows(rows)));
        }
        spark.stop();
    }

    private static List<Object> rows(Dataset<Row> found) {
        List<Object> rows = new ArrayList<>();
        for (Row row : found.collectAsList()) {
            List<Object> values = new ArrayList<>();
            for (int column = 0; column < row.size(); column++) {
                values.add(plain(row.get(column)));
            }
            rows.add(values);
        }
        return rows;
    }

    private static Object plain(Object value) {
        if (value instanceof Row row) {
            Map<String, Object> fields = new LinkedHashMap<>();
            for (String name : row.schema().fieldNames()) {
                fields.put(name, plain(row.getAs(name)));
            }
            return fields;
        }
        if (value instanceof scala.collection.Seq<?> items) {
            List<Object> list = new ArrayList<>();
            items.iterator().foreach(item -> list.add(plain(item)));
            return list;
        }
        if (value instanceof byte[] bytes) {
            return HexFormat.of().formatHex(bytes);
        }
        if (value instanceof java.time.Instant time) {
            return time.getEpochSecond() * 1_000_000 + time.getNano() / 1_000;
        }
        return value;
    }
}
