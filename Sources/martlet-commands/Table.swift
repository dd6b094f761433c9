// SPDX-License-Identifier: Apache-2.0

/// A table for terminals: columns as wide as their widest cell, three spaces between.
struct Table {
    var rows: [[String]]

    init(_ titles: [String]) {
        rows = [titles]
    }

    var text: String {
        var widths: [Int] = []
        for row in rows {
            for (column, cell) in row.enumerated() {
                if column == widths.count { widths.append(0) }
                widths[column] = max(widths[column], cell.count)
            }
        }
        var result = ""
        for row in rows {
            for (column, cell) in row.enumerated() {
                result += cell
                if column < row.count - 1 { result += String(repeating: " ", count: widths[column] - cell.count + 3) }
            }
            result += "\n"
        }
        return result
    }
}
